//! `nullable: true` of OpenAPI as JSON Schema has it.
//!
//! A schema keeps its place, since references lead there, so the keywords that exclude null are
//! changed within it. Only some keywords say anything about null (`type`, `enum`, `const` and those
//! that apply other schemas in place).

use serde_json::{Map, Value, json};

use super::keywords::{IN_PLACE, NAMED, ONE, SEVERAL};

/// `schema` with `nullable: true` carried out, in it and in all schemas that it holds.
pub(super) fn with_nullable(schema: &Value) -> Value {
    let Value::Object(object) = schema else {
        return schema.clone();
    };
    let mut object: Map<String, Value> = object
        .iter()
        .map(|(key, value)| (key.clone(), keyword(key, value)))
        .collect();
    if object.get("nullable") == Some(&Value::Bool(true)) {
        object.shift_remove("nullable");
        admit_null(&mut object);
    }
    Value::Object(object)
}

/// The value of the keyword `key`; a property of that name is no keyword, and neither is what
/// `default` holds.
fn keyword(key: &str, value: &Value) -> Value {
    match value {
        Value::Object(schemas) if NAMED.contains(&key) => Value::Object(
            schemas
                .iter()
                .map(|(name, schema)| (name.clone(), with_nullable(schema)))
                .collect(),
        ),
        Value::Array(schemas) if SEVERAL.contains(&key) => {
            schemas.iter().map(with_nullable).collect()
        }
        schema if ONE.contains(&key) => with_nullable(schema),
        other => other.clone(),
    }
}

fn admit_null(object: &mut Map<String, Value>) {
    match object.get_mut("type") {
        Some(Value::Array(kinds)) if !kinds.contains(&json!("null")) => kinds.push("null".into()),
        Some(kind @ Value::String(_)) if *kind != "null" => *kind = json!([kind, "null"]),
        _ => {}
    }
    if let Some(options) = object
        .get_mut("enum")
        .and_then(Value::as_array_mut)
        .filter(|list| !list.contains(&Value::Null))
    {
        options.push(Value::Null);
    }
    if let Some(only) = object.shift_remove("const") {
        let options = json!([only, null]);
        // Both may stand in one schema.
        all_of(object, json!({"enum": options}));
    }
    let applied: Vec<String> = object
        .keys()
        .filter(|key| is_applied(key))
        .cloned()
        .collect();
    let applied: Map<String, Value> = applied
        .iter()
        .filter_map(|key| object.shift_remove_entry(key))
        .collect();
    if !applied.is_empty() {
        all_of(object, json!({"anyOf": [{"type": "null"}, applied]}));
    }
}

fn is_applied(key: &str) -> bool {
    IN_PLACE.contains(&key) || matches!(key, "$ref" | "$dynamicRef" | "$recursiveRef")
}

fn all_of(object: &mut Map<String, Value>, schema: Value) {
    match object.get_mut("allOf").and_then(Value::as_array_mut) {
        Some(schemas) => schemas.push(schema),
        None => drop(object.insert("allOf".into(), json!([schema]))),
    }
}
