//! Checks conversations against the rules that training on them relies on: who speaks when, and
//! whether every tool call meets the JSON Schema of its tool.

mod held;
mod keywords;
mod nullable;
mod reach;
mod schema;
mod spelling;

use std::collections::HashMap;

use jsonschema::ValidationError;
use jsonschema::error::ValidationErrorKind;
use serde::Serialize;
use serde_json::Value;

use self::held::{Held, held};
use self::reach::{MOST, Reach};
use crate::chat::Conversation;
use crate::tools::function_of;

/// Findings of one call at the most: references may repeat one without end.
const OF_CALL: usize = 100;

/// One thing that is wrong with a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Index of the message, or none where the fault is in `tools`.
    pub message: Option<usize>,
    /// Index of the call within the message.
    pub tool_call: Option<usize>,
    pub text: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.message, self.tool_call) {
            (Some(m), Some(c)) => write!(f, "message {m} tool_call {c}: {}", self.text),
            (Some(m), None) => write!(f, "message {m}: {}", self.text),
            _ => f.write_str(&self.text),
        }
    }
}

/// Everything that is wrong with `conversation`, in the order of its messages.
pub fn check(conversation: &Conversation) -> Vec<Finding> {
    let mut findings = Vec::new();
    let tools = compile(&conversation.tools, &mut findings);
    roles(conversation, &mut findings);
    for (m, message) in conversation.messages.iter().enumerate() {
        let calls = message["tool_calls"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        for (c, call) in calls.iter().enumerate() {
            let texts = check_call(call, &tools);
            findings.extend(texts.into_iter().map(|text| Finding {
                message: Some(m),
                tool_call: Some(c),
                text,
            }));
        }
    }
    findings.sort_by_key(|f| (f.message, f.tool_call));
    findings
}

/// What is wrong with definitions of tools, which stand in their normal form.
pub fn check_tools(tools: &[Value]) -> Vec<Finding> {
    let mut findings = Vec::new();
    compile(tools, &mut findings);
    findings
}

/// What calls are held against, by the names of tools; none where there is nothing to hold them
/// against, which is a finding.
fn compile<'c>(
    tools: &'c [Value],
    findings: &mut Vec<Finding>,
) -> HashMap<String, Option<Held<'c>>> {
    let mut compiled = HashMap::new();
    for function in tools.iter().filter_map(function_of) {
        let name = function["name"].as_str().unwrap_or_default().to_owned();
        let mut fault = |text: String| {
            findings.push(Finding {
                message: None,
                tool_call: None,
                text: format!("tool `{name}`: {text}"),
            });
        };
        let held = held(function, &mut fault);
        if compiled.contains_key(&name) {
            fault("it is defined twice".into());
        }
        compiled.insert(name, held);
    }
    compiled
}

/// Ids of calls whose results may follow.
#[derive(Default)]
struct Open {
    calls: usize,
    ids: Vec<String>,
    /// Calls without an id, which any result may answer.
    nameless: usize,
}

impl Open {
    /// Takes note of the calls of an answer; returns an id that two of them share.
    fn begin(message: &Value) -> (Self, Option<String>) {
        let calls = message["tool_calls"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        let ids: Vec<String> = calls
            .iter()
            .filter_map(|call| call["id"].as_str())
            .map(str::to_owned)
            .collect();
        let twice = ids
            .iter()
            .enumerate()
            .find(|(i, id)| ids[..*i].contains(id))
            .map(|(_, id)| id.clone());
        (
            Self {
                calls: calls.len(),
                nameless: calls.len() - ids.len(),
                ids,
            },
            twice,
        )
    }

    /// What is wrong with the result `message`.
    fn answer(&mut self, message: &Value) -> Option<String> {
        if self.calls == 0 {
            return Some("a tool result without a call before it".into());
        }
        self.calls -= 1;
        let id = message["tool_call_id"].as_str()?;
        match self.ids.iter().position(|open| open == id) {
            Some(place) => {
                self.ids.remove(place);
                None
            }
            None if self.nameless > 0 => {
                self.nameless -= 1;
                None
            }
            None if self.ids.is_empty() => None,
            None => Some(format!(
                "the result's `tool_call_id` `{id}` is that of no call before it"
            )),
        }
    }
}

fn roles(conversation: &Conversation, findings: &mut Vec<Finding>) {
    let mut open = Open::default();
    let mut previous = "";
    for (m, message) in conversation.messages.iter().enumerate() {
        let role = message["role"].as_str().unwrap_or_default();
        let mut fault = |text: String| {
            findings.push(Finding {
                message: Some(m),
                tool_call: None,
                text,
            })
        };
        match role {
            "system" | "developer" if m > 0 => {
                fault("a system message stands after the first message".into())
            }
            "tool" => open.answer(message).into_iter().for_each(&mut fault),
            "assistant" if matches!(previous, "" | "system" | "developer") => {
                fault("the assistant speaks before the user".into());
            }
            "assistant" if previous == "assistant" => {
                fault("the assistant speaks twice in a row".into())
            }
            _ => {}
        }
        if role == "assistant" {
            let (begun, twice) = Open::begin(message);
            open = begun;
            twice
                .into_iter()
                .for_each(|id| fault(format!("two of its calls have the id `{id}`")));
        } else if role != "tool" {
            open = Open::default();
        }
        previous = role;
    }
}

fn check_call(call: &Value, tools: &HashMap<String, Option<Held<'_>>>) -> Vec<String> {
    let function = call.get("function").unwrap_or(call);
    let name = function["name"].as_str().unwrap_or_default();
    match tools.get(name) {
        None => vec![format!("`{name}` is not among the conversation's tools")],
        Some(None) => Vec::new(),
        Some(Some(held)) => {
            let arguments = &function["arguments"];
            if Reach::of(held.schema).exceeds(held.schema, arguments) {
                return vec![format!(
                    "the arguments are held against more than {MOST} schemas of `{name}`; give fewer, or refer to schemas less often"
                )];
            }
            let errors = held.validator.iter_errors(arguments);
            errors.take(OF_CALL).map(|e| describe(&e)).collect()
        }
    }
}

/// A schema violation in the words of the one who wrote the data.
fn describe(error: &ValidationError<'_>) -> String {
    let place = schema::path(&error.instance_path().to_string());
    let within = |key: &str| {
        if place.is_empty() {
            key.to_owned()
        } else {
            format!("{place}.{key}")
        }
    };
    let subject = if place.is_empty() {
        "the arguments".to_owned()
    } else {
        format!("parameter '{place}'")
    };
    let value = error.instance();
    let unknown = |keys: &[String]| {
        format!(
            "unknown parameter '{}'",
            keys.iter()
                .map(|k| within(k))
                .collect::<Vec<_>>()
                .join("', '")
        )
    };
    match error.kind() {
        ValidationErrorKind::Required { property } => {
            format!(
                "parameter '{}' is missing",
                within(property.as_str().unwrap_or_default())
            )
        }
        ValidationErrorKind::Type { .. } | ValidationErrorKind::Enum { .. } if value.is_null() => {
            format!("{subject} is null: {error}")
        }
        ValidationErrorKind::Type { .. } => {
            format!("{subject} is {value}, of the wrong type: {error}")
        }
        ValidationErrorKind::Enum { options } => {
            format!("{subject} is {value}, not one of {options}")
        }
        ValidationErrorKind::Maximum { limit } => {
            format!("{subject} is {value}, above the maximum {limit}")
        }
        ValidationErrorKind::Minimum { limit } => {
            format!("{subject} is {value}, below the minimum {limit}")
        }
        ValidationErrorKind::AdditionalProperties { unexpected } => unknown(unexpected),
        ValidationErrorKind::UnevaluatedProperties { unexpected } => unknown(unexpected),
        _ => format!("{subject}: {error}"),
    }
}
