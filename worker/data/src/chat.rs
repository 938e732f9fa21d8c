//! One row of chat data: messages, and the tools that they may call.

use serde_json::{Map, Value};

use crate::message::{is_trained_on, normal_message};
use crate::null_arguments::prune_arguments;
use crate::row_error::RowError;
use crate::shapes::{self, Shape};
use crate::strict;
use crate::tools::normal_tools;

/// Messages and tools in the one form that templates, the check and `data check --fix` share.
///
/// A message is an object with `role` and `content`, a text; that of an assistant who only calls is
/// as the row has it: absent, null or empty. A call is `{"type": "function", "function": {"name",
/// "arguments"}}` with arguments as an object, a tool is `{"type": "function", "function": {"name",
/// "description", "parameters"}}`. `weight: 0` marks an answer that is not trained on; templates do
/// not see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversation {
    pub messages: Vec<Value>,
    /// JSON Schema function definitions.
    pub tools: Vec<Value>,
}

/// One row to train on.
#[derive(Debug, Clone, PartialEq)]
pub enum Example {
    /// Trained on where the assistant speaks.
    Chat(Conversation),
    /// Plain text, all of which is trained on.
    Text(String),
}

impl Example {
    /// A row of a known chat shape, or one with `text` alone.
    ///
    /// # Errors
    /// The row has none of these shapes or more than one, or holds what cannot be trained on.
    pub fn from_value(row: Value) -> Result<Self, RowError> {
        let Value::Object(mut row) = row else {
            return Err(RowError::NoMessages);
        };
        let shape = shapes::recognize(&mut row)?;
        match shape {
            Shape::Text(text) => Ok(Self::Text(text)),
            Shape::Chat(messages) => {
                Conversation::normal(messages, row.remove("tools")).map(Self::Chat)
            }
        }
    }
}

impl Conversation {
    /// Reads one line of JSONL.
    ///
    /// # Errors
    /// It is not JSON, or no conversation.
    pub fn parse(line: &str) -> Result<Self, RowError> {
        Self::from_value(strict::parse(line).map_err(|e| RowError::NotJson(e.to_string()))?)
    }

    /// Takes a row of any known chat shape apart and brings it to one form.
    ///
    /// # Errors
    /// See [`Example::from_value`]; plain text is no conversation.
    pub fn from_value(row: Value) -> Result<Self, RowError> {
        match Example::from_value(row)? {
            Example::Chat(conversation) => Ok(conversation),
            Example::Text(_) => Err(RowError::NoMessages),
        }
    }

    fn normal(messages: Vec<Value>, tools: Option<Value>) -> Result<Self, RowError> {
        if messages.is_empty() {
            return Err(RowError::Empty);
        }
        let tools = normal_tools(tools).map_err(RowError::Tools)?;
        let mut messages = messages
            .into_iter()
            .enumerate()
            .map(|(index, message)| {
                normal_message(message).map_err(|fault| RowError::Message { index, fault })
            })
            .collect::<Result<Vec<_>, _>>()?;
        prune_arguments(&mut messages, &tools);
        let mut answers = messages
            .iter()
            .filter(|m| m["role"] == "assistant")
            .peekable();
        if answers.peek().is_none() {
            return Err(RowError::NoAssistant);
        }
        if !answers.any(is_trained_on) {
            return Err(RowError::NoWeight);
        }
        Ok(Self { messages, tools })
    }

    /// The conversation up to, and without, its last assistant message: a question to answer.
    pub fn question(&self) -> Self {
        let last = self
            .messages
            .iter()
            .rposition(|m| m["role"] == "assistant")
            .unwrap_or(self.messages.len());
        Self {
            messages: self.messages[..last].to_vec(),
            tools: self.tools.clone(),
        }
    }

    /// The row as it is best written down: without anything that stands for nothing.
    pub(crate) fn to_row(&self) -> Value {
        let written = |message: &Value| {
            // Templates tell an answer without content from one whose content is null.
            let says = |(key, value): &(&String, &Value)| !value.is_null() || *key == "content";
            let fields = message.as_object().into_iter().flatten().filter(says);
            Value::Object(
                fields
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect(),
            )
        };
        let mut row = Map::new();
        row.insert(
            "messages".into(),
            self.messages.iter().map(written).collect(),
        );
        if !self.tools.is_empty() {
            row.insert("tools".into(), Value::Array(self.tools.clone()));
        }
        Value::Object(row)
    }
}
