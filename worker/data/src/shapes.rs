//! Shapes of rows: `messages`, ShareGPT, Alpaca, prompt and completion, plain text. A row has
//! exactly one of them.

use serde_json::{Map, Value, json};

use crate::nulls::prune_top;
use crate::row_error::RowError;
use crate::strict;
use crate::trained::{asks_for_nothing, says_what_is_trained};

/// What a row holds.
pub(crate) enum Shape {
    /// Messages, each still as its shape writes it but for the names of its keys.
    Chat(Vec<Value>),
    Text(String),
}

/// Keys that change what a row means, and that are not carried out, with what to do instead.
const REFUSED: [(&str, &str); 16] = [
    ("functions", "write `tools`, a list of function definitions"),
    (
        "function_call",
        "write `tool_calls` in the assistant's message",
    ),
    ("documents", "write what they say into a message"),
    ("image", "only text can be trained on"),
    ("images", "only text can be trained on"),
    ("video", "only text can be trained on"),
    ("videos", "only text can be trained on"),
    ("audio", "only text can be trained on"),
    ("audios", "only text can be trained on"),
    (
        "chosen",
        "rows of preferences cannot be trained on; keep `messages`, or `prompt` and `completion`",
    ),
    (
        "rejected",
        "rows of preferences cannot be trained on; keep `messages`, or `prompt` and `completion`",
    ),
    (
        "chat_template_kwargs",
        "templates are given no variables; leave it out",
    ),
    (
        "enable_thinking",
        "templates are given no variables; leave it out",
    ),
    ("context", "write what it says into the question"),
    ("system_prompt", "write `system`"),
    (
        "instructions",
        "write what they say into `system` or into the question",
    ),
];

/// Keys that hold what is trained on, or a part of it, in some shape.
const OF_SHAPES: [&str; 12] = [
    "messages",
    "conversations",
    "conversation",
    "system",
    "tools",
    "instruction",
    "input",
    "output",
    "history",
    "prompt",
    "completion",
    "text",
];

/// Takes the messages or the text out of `row`.
pub(crate) fn recognize(row: &mut Map<String, Value>) -> Result<Shape, RowError> {
    let empty = empty_key(row);
    prune_top(row);
    refused(row)?;
    let has = |key: &str| {
        row.get(key)
            .is_some_and(|value| *value != json!([]) && *value != json!(""))
    };
    let found: Vec<&'static str> = [
        (has("messages"), "messages"),
        (has("conversations"), "conversations"),
        (has("conversation"), "conversation"),
        (
            has("instruction") && row.contains_key("output"),
            "instruction",
        ),
        (has("prompt") && row.contains_key("completion"), "prompt"),
        (has("text"), "text"),
    ]
    .into_iter()
    .filter_map(|(there, name)| there.then_some(name))
    .collect();
    let shape = match found[..] {
        [shape] => shape,
        [first, second, ..] => return Err(RowError::TwoShapes(first, second)),
        [] if ["messages", "conversations", "conversation", "text"]
            .iter()
            .any(|key| row.contains_key(*key)) =>
        {
            return Err(RowError::Empty);
        }
        [] => return Err(empty.map_or(RowError::NoMessages, RowError::EmptyKey)),
    };
    only_of(shape, row)?;
    let messages = match shape {
        "text" => return text(row, "text").map(Shape::Text),
        "instruction" => alpaca(row)?,
        "prompt" => completion(row)?,
        listed => list(row, listed)?.into_iter().map(turn).collect(),
    };
    with_system(row, messages).map(Shape::Chat)
}

/// The first key of a shape that is there and holds nothing.
fn empty_key(row: &Map<String, Value>) -> Option<&'static str> {
    let keys = [
        "messages",
        "conversations",
        "conversation",
        "instruction",
        "output",
        "prompt",
        "completion",
        "text",
    ];
    keys.into_iter()
        .find(|key| row.get(*key).is_some_and(|value| !holds_something(value)))
}

/// Refuses keys of other shapes than that whose first key is `shape`.
fn only_of(shape: &'static str, row: &Map<String, Value>) -> Result<(), RowError> {
    let own: &[&str] = match shape {
        "text" => &["text"],
        "instruction" => &[
            "instruction",
            "output",
            "input",
            "history",
            "system",
            "tools",
        ],
        "prompt" => &["prompt", "completion", "system", "tools"],
        "conversations" => &["conversations", "system", "tools"],
        "conversation" => &["conversation", "system", "tools"],
        _ => &["messages", "system", "tools"],
    };
    let is_foreign = |key: &str| OF_SHAPES.contains(&key) && !own.contains(&key);
    let adds = |value: &Value| holds_something(value) && !repeats(value, row.get(shape));
    match row
        .iter()
        .find(|(key, value)| is_foreign(key) && adds(value))
    {
        Some((key, _)) => {
            let text = format!(
                "is not read beside `{shape}`; leave it out, or write what it says where it is read"
            );
            Err(fault(key, &text))
        }
        None => Ok(()),
    }
}

/// Whether `value` is the text of one of `turns`, as public sets have it whose `prompt` repeats the
/// first question.
fn repeats(value: &Value, turns: Option<&Value>) -> bool {
    let (Some(text), Some(turns)) = (value.as_str(), turns.and_then(Value::as_array)) else {
        return false;
    };
    let says = |turn: &Value, key| {
        turn.get(key)
            .and_then(Value::as_str)
            .is_some_and(|said| said.trim() == text.trim())
    };
    turns
        .iter()
        .any(|turn| says(turn, "content") || says(turn, "value"))
}

fn holds_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}

/// Whether a row means another thing with `key` than without.
pub(crate) fn is_read(key: &str) -> bool {
    OF_SHAPES.contains(&key) || key == "label" || says_what_is_trained(key)
}

/// The keys of a row that are not read.
pub(crate) fn unread(row: &Value) -> impl Iterator<Item = &str> {
    let entries = row.as_object().into_iter().flatten();
    entries
        .filter(|(key, value)| !value.is_null() && !is_read(key))
        .map(|(key, _)| key.as_str())
}

fn refused(row: &Map<String, Value>) -> Result<(), RowError> {
    if let Some((key, help)) = REFUSED
        .iter()
        .find(|(key, _)| row.get(*key).is_some_and(holds_something))
    {
        return Err(fault(key, &format!("is not read; {help}")));
    }
    if let Some((key, _)) = row
        .iter()
        .find(|(key, value)| says_what_is_trained(key) && !asks_for_nothing(key, value))
    {
        let help = "write `weight: 0` in the messages that are not trained on, and leave out the rows that are not";
        return Err(fault(
            key,
            &format!("says what is trained on, and is not read; {help}"),
        ));
    }
    if row.get("label").is_some_and(Value::is_boolean) && row.contains_key("completion") {
        return Err(fault(
            "label",
            "marks good and bad completions, and is not read; leave out the bad ones and the key",
        ));
    }
    Ok(())
}

fn fault(key: &str, text: &str) -> RowError {
    RowError::Key {
        key: key.to_owned(),
        fault: text.to_owned(),
    }
}

fn text(row: &Map<String, Value>, key: &str) -> Result<String, RowError> {
    let text = row.get(key).and_then(Value::as_str);
    text.map(str::to_owned)
        .ok_or_else(|| fault(key, "is not text"))
}

/// A text that may be missing.
fn optional(row: &Map<String, Value>, key: &str) -> Result<Option<String>, RowError> {
    if row.contains_key(key) {
        text(row, key).map(|text| Some(text).filter(|text| !text.trim().is_empty()))
    } else {
        Ok(None)
    }
}

fn list(row: &mut Map<String, Value>, key: &str) -> Result<Vec<Value>, RowError> {
    match row.remove(key) {
        Some(Value::Array(list)) => Ok(list),
        _ => Err(fault(key, "is not a list")),
    }
}

/// A system text beside the messages is the first of them.
fn with_system(row: &Map<String, Value>, messages: Vec<Value>) -> Result<Vec<Value>, RowError> {
    let Some(system) = optional(row, "system")? else {
        return Ok(messages);
    };
    if messages.iter().any(|message| message["role"] == "system") {
        return Err(fault(
            "system",
            "stands beside a system message; keep one of them",
        ));
    }
    let first = json!({"role": "system", "content": system});
    Ok(std::iter::once(first).chain(messages).collect())
}

/// One ShareGPT turn, `from` and `value`, as a message; its other keys stay.
fn turn(turn: Value) -> Value {
    let Value::Object(mut turn) = turn else {
        return turn;
    };
    if turn.contains_key("role") || !turn.contains_key("value") {
        return Value::Object(turn);
    }
    let Some(Value::String(from)) = turn.remove("from") else {
        return Value::Object(turn);
    };
    let value = turn.remove("value").unwrap_or_default();
    let (role, key, value) = match from.as_str() {
        "human" | "user" => ("user", "content", value),
        "gpt" | "assistant" | "model" | "chatgpt" => ("assistant", "content", value),
        "observation" | "tool" | "function_response" => ("tool", "content", value),
        "function_call" | "tool_call" => ("assistant", "tool_calls", calls(value)),
        other => (other, "content", value),
    };
    turn.insert("role".into(), role.into());
    turn.insert(key.into(), value);
    Value::Object(turn)
}

/// The calls that a text of JSON holds: one, or a list of them. What is none is left as it is, for
/// the check of the message to refuse.
fn calls(value: Value) -> Value {
    match value.as_str().and_then(|text| strict::parse(text).ok()) {
        Some(list @ Value::Array(_)) => list,
        Some(one @ Value::Object(_)) => json!([one]),
        _ => value,
    }
}

fn alpaca(row: &Map<String, Value>) -> Result<Vec<Value>, RowError> {
    let (instruction, output) = (text(row, "instruction")?, text(row, "output")?);
    let question = match optional(row, "input")? {
        Some(input) => format!("{instruction}\n\n{input}"),
        None => instruction,
    };
    let history: &[Value] = match row.get("history") {
        None => &[],
        Some(Value::Array(pairs)) => pairs,
        Some(_) => return Err(fault("history", "is not a list of pairs")),
    };
    let mut messages = Vec::new();
    for pair in history {
        let Some([asked, said]) = pair.as_array().map(Vec::as_slice) else {
            return Err(fault(
                "history",
                "is not a list of pairs of a question and an answer",
            ));
        };
        messages.push(json!({"role": "user", "content": asked}));
        messages.push(json!({"role": "assistant", "content": said}));
    }
    messages.push(json!({"role": "user", "content": question}));
    messages.push(json!({"role": "assistant", "content": output}));
    Ok(messages)
}

fn completion(row: &Map<String, Value>) -> Result<Vec<Value>, RowError> {
    let messages = |key: &str, role: &str| match row.get(key) {
        Some(Value::String(text)) => Ok(vec![json!({"role": role, "content": text})]),
        Some(Value::Array(messages)) => Ok(messages.clone()),
        _ => Err(fault(key, "is neither text nor a list of messages")),
    };
    Ok([
        messages("prompt", "user")?,
        messages("completion", "assistant")?,
    ]
    .concat())
}

#[cfg(test)]
mod tests;
