//! A call of a tool in its normal form. A key that nothing reads is refused by name.

use serde_json::{Map, Value, json};

use crate::strict;

/// Wraps a call where it is not, and reads arguments that come as JSON text: both forms teach the
/// same.
pub(crate) fn normal_call(call: Value) -> Result<Value, String> {
    let Value::Object(mut call) = call else {
        return Err("is not an object".into());
    };
    call.retain(|key, value| !value.is_null() || key == "arguments");
    match call.get("id") {
        Some(Value::String(id)) if id.is_empty() => drop(call.shift_remove("id")),
        None | Some(Value::String(_)) => {}
        Some(other) => return Err(format!("has the `id` {other}, which is not text")),
    }
    if call.get("type").is_some_and(|kind| kind != "function") {
        return Err(format!(
            "is of type {}; only functions can be called",
            call["type"]
        ));
    }
    let function = match call.get("function") {
        Some(Value::Object(function)) => function.clone(),
        Some(_) => return Err("has a `function` that is not an object".into()),
        None => ["name", "arguments"]
            .iter()
            .filter_map(|key| call.shift_remove_entry(*key))
            .collect(),
    };
    call.shift_remove("index");
    if let Some(key) = call
        .keys()
        .find(|key| !["id", "type", "function"].contains(&key.as_str()))
    {
        return Err(not_read(key));
    }
    if !call.contains_key("type") {
        call.shift_insert(
            usize::from(call.contains_key("id")),
            "type".into(),
            "function".into(),
        );
    }
    call.insert("function".into(), Value::Object(called_function(function)?));
    Ok(Value::Object(call))
}

fn called_function(mut function: Map<String, Value>) -> Result<Map<String, Value>, String> {
    function.retain(|key, value| !value.is_null() || key == "arguments");
    if function
        .get("name")
        .and_then(Value::as_str)
        .is_none_or(str::is_empty)
    {
        return Err("has no `name`".into());
    }
    if let Some(key) = function
        .keys()
        .find(|key| !["name", "arguments"].contains(&key.as_str()))
    {
        return Err(not_read(key));
    }
    let arguments = match function.get("arguments") {
        None | Some(Value::Null) => json!({}),
        Some(Value::String(text)) if text.trim().is_empty() => json!({}),
        Some(Value::String(text)) => match strict::parse(text) {
            Ok(Value::Null) => json!({}),
            Ok(arguments) => arguments,
            Err(e) => {
                return Err(format!(
                    "`arguments` is text that is not a JSON object: {e}"
                ));
            }
        },
        Some(other) => other.clone(),
    };
    if !arguments.is_object() {
        return Err("`arguments` is not a JSON object".into());
    }
    function.insert("arguments".into(), arguments);
    Ok(function)
}

fn not_read(key: &str) -> String {
    match key {
        "parameters" | "input" | "args" | "kwargs" => {
            format!("has `{key}`, which is not read; write `arguments`")
        }
        _ => {
            format!("has `{key}`, which is not read; a call has an `id`, a `name` and `arguments`")
        }
    }
}
