//! Holds conversations against the rules that training on them relies on: who speaks when, and every tool call
//! against the JSON Schema of its tool.

use std::collections::HashMap;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{ValidationError, Validator};
use serde::Serialize;
use serde_json::Value;

use crate::chat::{Conversation, function_of};

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
    let tools = compile(conversation, &mut findings);
    roles(conversation, &mut findings);
    for (m, message) in conversation.messages.iter().enumerate() {
        let calls = message["tool_calls"].as_array().map_or(&[][..], Vec::as_slice);
        for (c, call) in calls.iter().enumerate() {
            let texts = check_call(call, &tools);
            findings.extend(texts.into_iter().map(|text| Finding { message: Some(m), tool_call: Some(c), text }));
        }
    }
    findings.sort_by_key(|f| (f.message, f.tool_call));
    findings
}

fn compile(conversation: &Conversation, findings: &mut Vec<Finding>) -> HashMap<String, Option<Validator>> {
    let mut tools = HashMap::new();
    for function in conversation.tools.iter().filter_map(function_of) {
        let name = function["name"].as_str().unwrap_or_default().to_owned();
        let compiled = match function.get("parameters") {
            None | Some(Value::Null) => None,
            Some(schema) => match jsonschema::validator_for(schema) {
                Ok(validator) => Some(validator),
                Err(e) => {
                    let text = format!("tool `{name}`: its parameters are not JSON Schema: {e}");
                    findings.push(Finding { message: None, tool_call: None, text });
                    None
                }
            },
        };
        tools.insert(name, compiled);
    }
    tools
}

fn roles(conversation: &Conversation, findings: &mut Vec<Finding>) {
    let mut open_calls = 0usize;
    let mut previous = "";
    for (m, message) in conversation.messages.iter().enumerate() {
        let role = message["role"].as_str().unwrap_or_default();
        let mut fault = |text: &str| {
            findings.push(Finding { message: Some(m), tool_call: None, text: text.to_owned() });
        };
        match role {
            "system" | "developer" if m > 0 => fault("a system message stands after the first message"),
            "tool" if open_calls == 0 => fault("a tool result without a call before it"),
            "assistant" if matches!(previous, "" | "system" | "developer") => {
                fault("the assistant speaks before the user")
            }
            "assistant" if previous == "assistant" => fault("the assistant speaks twice in a row"),
            _ => {}
        }
        open_calls = match role {
            "assistant" => message["tool_calls"].as_array().map_or(0, Vec::len),
            "tool" => open_calls.saturating_sub(1),
            _ => 0,
        };
        previous = role;
    }
}

fn check_call(call: &Value, tools: &HashMap<String, Option<Validator>>) -> Vec<String> {
    let function = call.get("function").unwrap_or(call);
    let name = function["name"].as_str().unwrap_or_default();
    match tools.get(name) {
        None => vec![format!("`{name}` is not among the conversation's tools")],
        Some(None) => Vec::new(),
        Some(Some(validator)) => validator.iter_errors(&function["arguments"]).map(|e| describe(&e)).collect(),
    }
}

/// A schema violation in the words of the one who wrote the data.
fn describe(error: &ValidationError<'_>) -> String {
    let path = error.instance_path().to_string().trim_start_matches('/').replace('/', ".");
    let subject = if path.is_empty() { "the arguments".to_owned() } else { format!("parameter '{path}'") };
    let value = error.instance();
    match error.kind() {
        ValidationErrorKind::Required { property } => {
            format!("parameter '{}' is missing", property.as_str().unwrap_or_default())
        }
        ValidationErrorKind::Type { .. } => format!("{subject} is {value}, of the wrong type: {error}"),
        ValidationErrorKind::Enum { options } => format!("{subject} is {value}, not one of {options}"),
        ValidationErrorKind::Maximum { limit } => format!("{subject} is {value}, above the maximum {limit}"),
        ValidationErrorKind::Minimum { limit } => format!("{subject} is {value}, below the minimum {limit}"),
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            format!("unknown parameter '{}'", unexpected.join("', '"))
        }
        _ => format!("{subject}: {error}"),
    }
}
