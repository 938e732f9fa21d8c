//! One message in its normal form. A part whose meaning is not supported is refused by name.

use serde_json::{Map, Value, json};

use crate::tool_call::normal_call;
use crate::trained::{asks_for_nothing, asks_to_be_left_out, says_what_is_trained};

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// Keys that change what a message means, and that are not carried out, with what to do instead.
const REFUSED: [(&str, &str); 8] = [
    (
        "function_call",
        "write `tool_calls`, a list of {\"type\": \"function\", \"function\": {...}}",
    ),
    ("refusal", "write the text of a refusal as `content`"),
    ("audio", "only text can be trained on"),
    ("image", "only text can be trained on"),
    ("images", "only text can be trained on"),
    ("video", "only text can be trained on"),
    ("videos", "only text can be trained on"),
    (
        "prefix",
        "leave it out, and give the whole answer as `content`",
    ),
];

/// Keys that messages have in the forms that are read.
const READ: [&str; 11] = [
    "role",
    "content",
    "tool_calls",
    "tool_call_id",
    "name",
    "weight",
    "reasoning_content",
    "thinking",
    "reasoning",
    "from",
    "value",
];

/// Other names of `reasoning_content`.
const REASONING: [&str; 2] = ["thinking", "reasoning"];

/// Whether the answer `message` is trained on.
pub(crate) fn is_trained_on(message: &Value) -> bool {
    message.as_object().is_none_or(is_weighed)
}

/// Whether a message means another thing with `key` than without, whatever its form.
pub(crate) fn is_read(key: &str) -> bool {
    let is_refused = REFUSED.iter().any(|(refused, _)| *refused == key);
    READ.contains(&key) || is_refused || says_what_is_trained(key)
}

/// The keys of a message that are not read here; templates may read them.
pub(crate) fn unread(message: &Value) -> impl Iterator<Item = &str> {
    let entries = message.as_object().into_iter().flatten();
    entries
        .filter(|(key, value)| !value.is_null() && !READ.contains(&key.as_str()))
        .map(|(key, _)| key.as_str())
}

/// `message` in the form that [`crate::Conversation`] describes, or what is wrong with it.
pub(crate) fn normal_message(message: Value) -> Result<Value, String> {
    let Value::Object(mut message) = message else {
        return Err("is not an object".into());
    };
    let role = match message.get("role") {
        Some(Value::String(role)) if ROLES.contains(&role.as_str()) => role.clone(),
        Some(Value::String(role)) => {
            return Err(format!(
                "has the unknown role `{role}`; known are {}",
                ROLES.join(", ")
            ));
        }
        _ => return Err("has no `role`".into()),
    };
    content(&mut message)?;
    calls(&mut message, &role)?;
    weight(&mut message, &role)?;
    let says_nothing = message
        .get("content")
        .is_none_or(|content| content.is_null() || *content == "");
    message.retain(|key, value| !value.is_null() || (key == "content" && role == "assistant"));
    refused(&mut message, &role)?;
    reasoning(&mut message)?;
    result_id(&mut message)?;
    let calls = message.contains_key("tool_calls");
    // Of an answer that only calls, the template is given what the row has: nothing, null or an
    // empty text.
    if says_nothing && !(calls && role == "assistant") {
        let nothing = nothing_said(&message, &role)?;
        message.insert("content".into(), nothing);
    }
    let text = message
        .get("content")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let empty = role == "assistant" && text.trim().is_empty() && !calls;
    let message = Value::Object(message);
    if empty && is_trained_on(&message) {
        return Err("is an empty answer; give it a text, or leave the message out".into());
    }
    Ok(message)
}

/// The content of a message that has none, whichever way that is written: files of columns cannot
/// tell one from another.
fn nothing_said(message: &Map<String, Value>, role: &str) -> Result<Value, String> {
    let elsewhere = message.keys().find(|key| !READ.contains(&key.as_str()));
    match (role, elsewhere) {
        ("assistant", None) if !is_weighed(message) => Ok("".into()),
        ("system" | "developer" | "tool", None) => Ok("".into()),
        ("assistant", None) => {
            Err("is an empty answer; give it a text, or leave the message out".into())
        }
        (_, None) => Err("has no text; give it one, or leave the message out".into()),
        (_, Some(key)) => Err(format!("has no `content`, and `{key}` is not read")),
    }
}

fn is_weighed(message: &Map<String, Value>) -> bool {
    message
        .get("weight")
        .is_none_or(|weight| weight.as_f64() != Some(0.0))
}

/// The call that a result answers; an empty id names none.
fn result_id(message: &mut Map<String, Value>) -> Result<(), String> {
    match message.get("tool_call_id") {
        Some(Value::String(id)) if id.is_empty() => drop(message.shift_remove("tool_call_id")),
        None | Some(Value::String(_)) => {}
        Some(other) => return Err(format!("has the `tool_call_id` {other}, which is not text")),
    }
    Ok(())
}

/// Content is text; a list of texts is joined.
fn content(message: &mut Map<String, Value>) -> Result<(), String> {
    let Some(slot) = message.get_mut("content") else {
        return Ok(());
    };
    let text = match &*slot {
        Value::Null | Value::String(_) => return Ok(()),
        Value::Array(parts) => {
            Value::String(parts.iter().map(text_of_part).collect::<Result<_, _>>()?)
        }
        other => {
            return Err(format!(
                "has {other} as its `content`, which is not text; write it in quotation marks"
            ));
        }
    };
    *slot = text;
    Ok(())
}

fn text_of_part(part: &Value) -> Result<&str, String> {
    if let Some(key) = part
        .as_object()
        .and_then(|part| part.keys().find(|key| says_what_is_trained(key)))
    {
        return Err(format!(
            "has `{key}` in a part of its `content`; whole answers are trained on, or not"
        ));
    }
    match (
        part.get("type").and_then(Value::as_str),
        part.get("text").and_then(Value::as_str),
    ) {
        (Some("text"), Some(text)) => Ok(text),
        (Some("text"), None) => Err("has a part of type `text` without a `text`".into()),
        (Some(other), _) => Err(format!(
            "has a part of type `{other}`; only parts of type `text` can be trained on"
        )),
        (None, _) => Err(format!(
            "has a part of `content` that is none: {part}; write {{\"type\": \"text\", \"text\": ...}}"
        )),
    }
}

fn calls(message: &mut Map<String, Value>, role: &str) -> Result<(), String> {
    let Some(slot) = message.get_mut("tool_calls") else {
        return Ok(());
    };
    match slot {
        Value::Null => {}
        Value::String(text) if text.trim().is_empty() => *slot = Value::Null,
        Value::Array(calls) if calls.is_empty() => *slot = Value::Null,
        Value::Array(_) if role != "assistant" => {
            return Err(format!("has `tool_calls`, but its role is {role}"));
        }
        Value::Array(calls) => {
            for (i, call) in calls.iter_mut().enumerate() {
                *call =
                    normal_call(call.take()).map_err(|fault| format!("tool_call {i}: {fault}"))?;
            }
        }
        _ => return Err("has `tool_calls` that are not a list".into()),
    }
    Ok(())
}

/// Answers of weight 0 are not trained on; other weights than 0 and 1 have no meaning here.
fn weight(message: &mut Map<String, Value>, role: &str) -> Result<(), String> {
    let Some(weight) = message.get_mut("weight").filter(|weight| !weight.is_null()) else {
        return Ok(());
    };
    match weight.as_f64() {
        Some(1.0) if role == "assistant" => *weight = Value::Null,
        Some(0.0) if role == "assistant" => *weight = json!(0),
        // What is not the assistant's is never trained on.
        Some(0.0) => *weight = Value::Null,
        Some(1.0) => {
            return Err(format!(
                "has `weight: 1`, but its role is {role}; only answers are trained on"
            ));
        }
        _ => {
            return Err(format!(
                "has the weight {weight}; 1 trains on an answer, 0 does not"
            ));
        }
    }
    Ok(())
}

/// Refuses keys with a meaning that is not carried out; those that ask for what is done anyway are
/// left out.
fn refused(message: &mut Map<String, Value>, role: &str) -> Result<(), String> {
    let trained = role == "assistant" && is_weighed(message);
    let done_anyway = if trained {
        asks_for_nothing
    } else {
        asks_to_be_left_out
    };
    message.retain(|key, value| {
        key == "weight" || !says_what_is_trained(key) || !done_anyway(key, value)
    });
    let nothing = [json!(false), json!([]), json!("")];
    let means_something = |key: &str| {
        message
            .get(key)
            .is_some_and(|value| !nothing.contains(value))
    };
    if let Some((key, help)) = REFUSED.iter().find(|(key, _)| means_something(key)) {
        return Err(format!("has `{key}`, which is not read; {help}"));
    }
    match message
        .keys()
        .find(|key| *key != "weight" && says_what_is_trained(key))
    {
        Some(key) => Err(format!(
            "has `{key}`, which is not read; write `weight: 0` for an answer that is not trained on"
        )),
        None => Ok(()),
    }
}

/// Templates read `reasoning_content`; transformers fills it from its other names too.
fn reasoning(message: &mut Map<String, Value>) -> Result<(), String> {
    for key in REASONING {
        let text = message.shift_remove(key).filter(|text| *text != "");
        if let Some(text) = text {
            if message
                .get("reasoning_content")
                .is_some_and(|text| *text != "")
            {
                return Err(format!(
                    "has both `{key}` and `reasoning_content`; keep one"
                ));
            }
            message.insert("reasoning_content".into(), text);
        }
    }
    match message.get("reasoning_content") {
        Some(Value::String(text)) if text.trim().is_empty() => {
            message.shift_remove("reasoning_content");
            Ok(())
        }
        None | Some(Value::String(_)) => Ok(()),
        Some(other) => Err(format!(
            "has {other} as its `reasoning_content`, which is not text"
        )),
    }
}

#[cfg(test)]
mod tests;
