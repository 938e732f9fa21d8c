//! Finds tool calls in what a model wrote, and compares them with the expected calls.
//!
//! Templates write calls in their own ways: one JSON object in tags, a list after a marker,
//! `parameters` for `arguments`. All of them contain JSON, so this module looks for JSON.

use serde_json::{Value, json};

use crate::chat::Conversation;
use crate::check::check;
use crate::tools::function_of;

/// One call.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub name: String,
    pub arguments: Value,
}

/// How an answer compares with the calls that were wanted; each holds only if the one before does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// No call could be read.
    Unreadable,
    /// Calls are there as JSON.
    Json,
    /// Every call is of a known tool and fits its schema.
    Schema,
    /// The functions are the wanted ones, in order.
    Names,
    /// The arguments are too.
    Exact,
}

impl Grade {
    /// What is wrong with the answer, in words.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unreadable => "no call to be read",
            Self::Json => "no schema fits",
            Self::Schema => "another function",
            Self::Names => "other arguments",
            Self::Exact => "exact",
        }
    }
}

/// The calls that `text` holds, in order.
pub fn find_calls(text: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(['{', '[']) {
        rest = &rest[start..];
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        match values.next() {
            Some(Ok(value)) => {
                collect(&value, &mut calls);
                rest = &rest[values.byte_offset()..];
            }
            _ => rest = &rest[1..],
        }
    }
    calls
}

fn collect(value: &Value, calls: &mut Vec<Call>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, calls)),
        Value::Object(_) => calls.extend(call_of(value)),
        _ => {}
    }
}

/// The call that an object is, in any of the known spellings.
fn call_of(value: &Value) -> Option<Call> {
    let function = function_of(value)?;
    let arguments = function
        .get("arguments")
        .or_else(|| function.get("parameters"))
        .cloned()
        .unwrap_or(json!({}));
    let arguments = match arguments {
        Value::String(text) => serde_json::from_str(&text).ok()?,
        other => other,
    };
    let name = function.get("name")?.as_str()?.to_owned();
    arguments.is_object().then_some(Call { name, arguments })
}

/// Compares `answer` with the last turn of `conversation`; none where that turn makes no calls.
pub fn grade(conversation: &Conversation, answer: &str) -> Option<Grade> {
    let last = conversation
        .messages
        .iter()
        .rev()
        .find(|m| m["role"] == "assistant")?;
    let wanted: Vec<Call> = last["tool_calls"]
        .as_array()?
        .iter()
        .filter_map(call_of)
        .collect();
    if wanted.is_empty() {
        return None;
    }
    let found = find_calls(answer);
    Some(if found.is_empty() {
        Grade::Unreadable
    } else if !fit(conversation, &found) {
        Grade::Json
    } else if !found
        .iter()
        .map(|c| &c.name)
        .eq(wanted.iter().map(|c| &c.name))
    {
        Grade::Schema
    } else if found != wanted {
        Grade::Names
    } else {
        Grade::Exact
    })
}

/// Whether every call is of a known tool and fits its schema.
fn fit(conversation: &Conversation, calls: &[Call]) -> bool {
    let calls: Vec<Value> = calls
        .iter()
        .map(|c| json!({"function": {"name": c.name, "arguments": c.arguments}}))
        .collect();
    let asked = json!({"role": "user", "content": ""});
    let answer = json!({"role": "assistant", "tool_calls": calls});
    let findings = check(&Conversation {
        messages: vec![asked, answer],
        tools: conversation.tools.clone(),
    });
    // What is wrong with a tool's definition is not the answer's fault.
    findings.iter().all(|finding| finding.message.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation() -> Conversation {
        let row = json!({"messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"n": 1, "s": "x"}}}]}
        ], "tools": [{"name": "f", "parameters": {"type": "object", "properties": {"n": {"maximum": 14}}}}, {"name": "g"}]});
        Conversation::from_value(row).expect("a conversation")
    }

    #[test]
    fn calls_are_found_in_the_ways_that_models_write_them() {
        let wanted = Call {
            name: "f".into(),
            arguments: json!({"n": 1}),
        };
        for text in [
            "<tool_call>{\"name\": \"f\", \"arguments\": {\"n\": 1}}</tool_call>",
            "{\"name\": \"f\", \"parameters\": {\"n\": 1}}",
            "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"n\": 1}, \"id\": \"abcdefghi\"}]",
            "I call {it}: {\"type\": \"function\", \"function\": {\"name\": \"f\", \"arguments\": \"{\\\"n\\\": 1}\"}}",
        ] {
            assert_eq!(find_calls(text), std::slice::from_ref(&wanted), "{text}");
        }
        let two =
            "<tool_call>{\"name\": \"f\"}</tool_call>\n<tool_call>{\"name\": \"g\"}</tool_call>";
        assert_eq!(find_calls(two).len(), 2);
        assert!(find_calls("no call, {broken: [1, 2").is_empty());
    }

    #[test]
    fn grades_rise_with_what_is_right() {
        let call = |name: &str, arguments: Value| {
            json!({"name": name, "arguments": arguments}).to_string()
        };
        for (answer, wanted) in [
            ("sorry".to_owned(), Grade::Unreadable),
            (call("h", json!({})), Grade::Json),
            (call("f", json!({"n": 15})), Grade::Json),
            (call("g", json!({})), Grade::Schema),
            (call("f", json!({"n": 2, "s": "x"})), Grade::Names),
            (call("f", json!({"s": "x", "n": 1})), Grade::Exact),
        ] {
            assert_eq!(grade(&conversation(), &answer), Some(wanted), "{answer}");
        }
        let mut plain = conversation();
        plain.messages[1] = json!({"role": "assistant", "content": "a"});
        assert_eq!(grade(&plain, "a"), None);
    }
}
