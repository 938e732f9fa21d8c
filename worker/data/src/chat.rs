//! One row of chat data: messages, and the tools that they may call.

use serde_json::{Map, Value};

use crate::shapes::to_messages;

/// Messages and tools in the common `messages` form; what a template gets to see.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversation {
    /// Objects with `role` and `content` or `tool_calls`; call arguments are objects, never JSON text.
    pub messages: Vec<Value>,
    /// JSON Schema function definitions.
    pub tools: Vec<Value>,
}

/// One row to learn from.
#[derive(Debug, Clone, PartialEq)]
pub enum Example {
    /// Learnt from where the assistant speaks.
    Chat(Conversation),
    /// Plain text, all of which is learnt from.
    Text(String),
}

impl Example {
    /// A row of a known chat shape, or one with `text` alone.
    pub fn from_value(row: Value) -> Result<Self, RowError> {
        match row.get("text").and_then(Value::as_str) {
            Some("") => Err(RowError::Empty),
            Some(text) if !has_turns(&row) => Ok(Self::Text(text.to_owned())),
            _ => Conversation::from_value(row).map(Self::Chat),
        }
    }
}

fn has_turns(row: &Value) -> bool {
    ["messages", "conversations", "instruction", "prompt"].iter().any(|key| row.get(key).is_some())
}

/// Why a row is no conversation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    #[error("the row is not JSON: {0}")]
    NotJson(String),
    #[error("the row holds neither `messages`, nor `conversations`, nor `instruction` and `output`, nor `text`")]
    NoMessages,
    #[error("the row is empty")]
    Empty,
    #[error("message {index} {fault}")]
    Message { index: usize, fault: String },
    #[error("no message is the assistant's: there is nothing to learn from")]
    NoAssistant,
    #[error("`tools` is not a list of function definitions")]
    Tools,
}

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

impl Conversation {
    /// Reads one line of JSONL.
    pub fn parse(line: &str) -> Result<Self, RowError> {
        let value: Value = serde_json::from_str(line).map_err(|e| RowError::NotJson(e.to_string()))?;
        Self::from_value(value)
    }

    /// Takes a row of any known shape apart and brings call arguments to one form.
    pub fn from_value(row: Value) -> Result<Self, RowError> {
        let mut row = to_messages(row);
        let messages = match row.get_mut("messages").map(Value::take) {
            Some(Value::Array(messages)) => messages,
            _ => return Err(RowError::NoMessages),
        };
        if messages.is_empty() {
            return Err(RowError::Empty);
        }
        let messages = messages
            .into_iter()
            .enumerate()
            .map(|(index, message)| normal_message(message).map_err(|fault| RowError::Message { index, fault }))
            .collect::<Result<Vec<_>, _>>()?;
        if !messages.iter().any(|m| m["role"] == "assistant") {
            return Err(RowError::NoAssistant);
        }
        let tools = match row.get_mut("tools").map(Value::take) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(tools)) if tools.iter().all(|t| function_of(t).is_some()) => tools,
            Some(_) => return Err(RowError::Tools),
        };
        Ok(Self { messages, tools })
    }

    /// The conversation up to, and without, its last assistant message: a question to answer.
    pub fn question(&self) -> Self {
        let last = self.messages.iter().rposition(|m| m["role"] == "assistant").unwrap_or(self.messages.len());
        Self { messages: self.messages[..last].to_vec(), tools: self.tools.clone() }
    }
}

/// The object that holds `name` and `parameters`: the tool itself, or its `function`.
pub(crate) fn function_of(tool: &Value) -> Option<&Map<String, Value>> {
    let function = tool.get("function").unwrap_or(tool).as_object()?;
    function.get("name")?.as_str()?;
    Some(function)
}

fn normal_message(mut message: Value) -> Result<Value, String> {
    let Some(object) = message.as_object_mut() else { return Err("is not an object".into()) };
    let role = object.get("role").and_then(Value::as_str).ok_or("has no `role`")?.to_owned();
    if !ROLES.contains(&role.as_str()) {
        return Err(format!("has the unknown role `{role}`; known are {}", ROLES.join(", ")));
    }
    let has_content = object.get("content").is_some_and(|c| !c.is_null());
    match object.get_mut("tool_calls") {
        None | Some(Value::Null) => {}
        Some(Value::Array(calls)) => {
            for (i, call) in calls.iter_mut().enumerate() {
                normal_call(call).map_err(|fault| format!("tool_call {i}: {fault}"))?;
            }
        }
        Some(_) => return Err("has `tool_calls` that are not a list".into()),
    }
    let has_calls = object.get("tool_calls").and_then(Value::as_array).is_some_and(|c| !c.is_empty());
    if !has_content && !has_calls {
        return Err("has neither `content` nor `tool_calls`".into());
    }
    Ok(message)
}

/// Arguments that come as JSON text become the object that they stand for, so that both forms teach the same.
fn normal_call(call: &mut Value) -> Result<(), String> {
    let function = if call.get("function").is_some() { &mut call["function"] } else { call };
    let Some(object) = function.as_object_mut() else { return Err("is not an object".into()) };
    object.get("name").and_then(Value::as_str).ok_or("has no `name`")?;
    match object.get_mut("arguments") {
        None | Some(Value::Null) => {
            object.insert("arguments".into(), Value::Object(Map::new()));
        }
        Some(Value::Object(_)) => {}
        Some(slot) => {
            let parsed = slot.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
            *slot = parsed.filter(Value::is_object).ok_or("`arguments` is not a JSON object")?;
        }
    }
    Ok(())
}
