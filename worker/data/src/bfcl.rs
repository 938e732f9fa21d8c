//! Makes training rows from the Berkeley Function-Calling Leaderboard (Apache-2.0).
//!
//! Its questions come with functions whose types are `dict`, `float`, `tuple` and `any` instead of
//! JSON Schema's, and with lists of acceptable values instead of one answer. Rows are split by
//! function name, so that no function of a held-out row occurs in a training row. Never score a
//! model on that leaderboard after this.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::chat::Conversation;
use crate::check::check;

/// On which side of the split a row falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Train,
    Held,
}

/// Which rows are taken.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Characters of a row as JSON.
    pub max_chars: usize,
    /// One function name in this many is held out.
    pub held_out: u64,
}

/// Joins questions with their answers (both JSONL) and keeps what is one user turn, short enough
/// and valid.
pub fn convert(questions: &str, answers: &str, limits: Limits) -> Vec<(Side, Value)> {
    let answers: HashMap<String, Value> = rows(answers)
        .filter_map(|row| Some((id(&row)?, row)))
        .collect();
    rows(questions)
        .filter_map(|row| {
            let value = convert_row(&row, answers.get(&id(&row)?)?)?;
            if value.to_string().len() > limits.max_chars {
                return None;
            }
            let conversation = Conversation::from_value(value.clone()).ok()?;
            (check(&conversation).is_empty()).then_some(())?;
            Some((side(&conversation, limits.held_out)?, value))
        })
        .collect()
}

fn rows(text: &str) -> impl Iterator<Item = Value> {
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
}

fn id(row: &Value) -> Option<String> {
    row["id"].as_str().map(str::to_owned)
}

/// Rows whose functions fall on both sides are dropped.
fn side(conversation: &Conversation, held_out: u64) -> Option<Side> {
    let held = |tool: &Value| {
        tool["function"]["name"]
            .as_str()
            .map(|name| fnv(name).is_multiple_of(held_out))
    };
    let mut sides = conversation.tools.iter().filter_map(held);
    let first = sides.next()?;
    sides
        .all(|s| s == first)
        .then_some(if first { Side::Held } else { Side::Train })
}

/// FNV-1a, 64 bits: a hash that stays the same in every version of every program.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn convert_row(row: &Value, answer: &Value) -> Option<Value> {
    let turns = row["question"].as_array()?;
    let [turn] = turns.as_slice() else {
        return None;
    };
    let mut messages = turn.as_array()?.clone();
    let functions = row["function"].as_array()?;
    let calls = answer["ground_truth"]
        .as_array()?
        .iter()
        .map(|call| convert_call(call, functions))
        .collect::<Option<Vec<_>>>()?;
    messages.push(json!({"role": "assistant", "content": null, "tool_calls": calls}));
    let tools = functions
        .iter()
        .map(|f| json!({"type": "function", "function": convert_function(f)}))
        .collect::<Vec<_>>();
    Some(json!({"messages": messages, "tools": tools}))
}

fn convert_function(function: &Value) -> Value {
    json!({
        "name": function["name"],
        "description": function["description"],
        "parameters": convert_schema(&function["parameters"]),
    })
}

fn convert_schema(schema: &Value) -> Value {
    let Some(object) = schema.as_object() else {
        return schema.clone();
    };
    let mut out = Map::new();
    for (key, value) in object {
        match (key.as_str(), value) {
            ("type", Value::String(name)) => match json_type(name) {
                Some(name) => drop(out.insert(key.clone(), name.into())),
                None => continue,
            },
            ("properties", Value::Object(properties)) => {
                let converted = properties
                    .iter()
                    .map(|(k, v)| (k.clone(), convert_schema(v)))
                    .collect();
                out.insert(key.clone(), Value::Object(converted));
            }
            ("items" | "additionalProperties", value) => {
                drop(out.insert(key.clone(), convert_schema(value)))
            }
            // Defaults are often given in prose or in the wrong type; they are no part of the
            // contract.
            ("default" | "optional", _) => {}
            (_, value) => drop(out.insert(key.clone(), value.clone())),
        }
    }
    Value::Object(out)
}

fn json_type(name: &str) -> Option<&'static str> {
    match name {
        "dict" | "object" => Some("object"),
        "float" | "number" | "double" => Some("number"),
        "integer" | "int" | "long" => Some("integer"),
        "tuple" | "array" | "list" => Some("array"),
        "boolean" | "bool" => Some("boolean"),
        "string" | "String" | "char" => Some("string"),
        _ => None,
    }
}

fn convert_call(call: &Value, functions: &[Value]) -> Option<Value> {
    let (name, accepted) = call.as_object()?.iter().next()?;
    let function = functions.iter().find(|f| f["name"] == name.as_str())?;
    let arguments = pick_object(accepted, &function["parameters"])?;
    Some(json!({"type": "function", "function": {"name": name, "arguments": arguments}}))
}

/// One value for each parameter: the first acceptable one. An empty text among them says it may be
/// left out.
fn pick_object(accepted: &Value, schema: &Value) -> Option<Value> {
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    let mut out = Map::new();
    for (key, values) in accepted.as_object()? {
        let values = values.as_array()?;
        let optional =
            values.iter().any(|v| v == "") && !required.iter().any(|r| r == key.as_str());
        if !optional {
            out.insert(
                key.clone(),
                pick(values.first()?, &schema["properties"][key])?,
            );
        }
    }
    Some(Value::Object(out))
}

/// Acceptable objects hold lists of acceptable values for each of their own keys.
fn pick(value: &Value, schema: &Value) -> Option<Value> {
    match value {
        Value::Object(_) => pick_object(value, schema),
        Value::Array(items) => items
            .iter()
            .map(|item| pick(item, &schema["items"]))
            .collect::<Option<Vec<_>>>()
            .map(Value::Array),
        Value::Number(number) if schema["type"] == "float" && !number.is_f64() => {
            number.as_f64().map(Value::from)
        }
        other => Some(other.clone()),
    }
}
