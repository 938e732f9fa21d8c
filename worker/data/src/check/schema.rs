//! The schema of a tool's parameters: which parts of it mean nothing, and the validator for calls.
//!
//! `nullable`, which OpenAPI has and JSON Schema lacks, is supported. Unknown keywords, and
//! references that lead nowhere or back to themselves, are faults: a schema that constrains nothing
//! must not look like one that a call has met.

use jsonschema::{ValidationError, Validator};
use serde_json::{Map, Value, json};

use super::keywords::{
    self, FREE, NAMED, OBJECTS, ONE, SAYING_NOTHING, SEVERAL, TYPES, is_keyword,
};
use super::nullable::with_nullable;
use super::reach::{MOST, Reach};
use super::spelling::nearest;
use crate::reference::pointer;

/// A JSON pointer as people write it: `to.road/rail`.
pub(super) fn path(pointer: &str) -> String {
    let parts = pointer
        .split('/')
        .skip(1)
        .map(|part| part.replace("~1", "/").replace("~0", "~"));
    parts.collect::<Vec<_>>().join(".")
}

/// The validator of `schema`.
pub(super) fn validator(schema: &Value) -> Result<Validator, ValidationError<'static>> {
    jsonschema::validator_for(&with_nullable(schema))
}

/// What in `schema` says nothing, or leads nowhere.
pub(super) fn faults(schema: &Value) -> Vec<String> {
    let Value::Object(object) = schema else {
        return vec![format!(
            "its parameters are {schema}; write a schema of type object"
        )];
    };
    let mut faults = Vec::new();
    if let Some(kind) = schema
        .get("type")
        .filter(|kind| is_type(kind) && !names_object(kind))
    {
        faults.push(format!(
            "its parameters are of type {kind}; arguments are always an object"
        ));
    }
    let mut reach = Reach::of(schema);
    look(schema, schema, &mut reach, "parameters", &mut faults);
    // What leads nowhere or back has been named.
    if faults.is_empty()
        && let Some(reference) = reach.unfollowed()
    {
        faults.push(format!(
            "the reference `{reference}` of its parameters is not followed; write it as `#/$defs/` and a name, and leave out `$id` within the schema"
        ));
    }
    if faults.is_empty() && reach.multiplies() {
        faults.push(format!(
            "a value is held against more than {MOST} schemas of its parameters, since references to them multiply; refer to each once"
        ));
    }
    if faults.is_empty() {
        faults.extend(emptiness(object));
    }
    faults
}

/// Why a schema of parameters, all of whose words may be right, holds nothing against a call.
fn emptiness(schema: &Map<String, Value>) -> Option<String> {
    let structural = [
        "properties",
        "patternProperties",
        "$ref",
        "$dynamicRef",
        "allOf",
        "anyOf",
        "oneOf",
    ];
    let named = |keys: Vec<&String>| {
        keys.iter()
            .map(|key| format!("`{key}`"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    if structural.iter().any(|key| schema.contains_key(*key)) {
        return None;
    }
    let foreign: Vec<&String> = schema
        .keys()
        .filter(|key| !is_keyword(key) && !is_own(key))
        .collect();
    if !foreign.is_empty() {
        let words = named(foreign);
        return Some(format!(
            "its parameters have {words}, no keywords of JSON Schema; properties belong under `properties`"
        ));
    }
    let says_something = |key: &String| !SAYING_NOTHING.contains(&key.as_str()) && !is_own(key);
    if schema.is_empty() || schema.keys().any(says_something) {
        return None;
    }
    let words = named(schema.keys().collect());
    Some(format!(
        "its parameters have only {words}, which no call is held against; properties belong under `properties`, beside `type: object`"
    ))
}

fn names_object(kind: &Value) -> bool {
    *kind == "object"
        || kind
            .as_array()
            .is_some_and(|kinds| kinds.contains(&json!("object")))
}

/// A word of someone's own, as such words are written.
fn is_own(key: &str) -> bool {
    key.starts_with(['$', '_']) && key != "$ref" && key != "$dynamicRef" || key.starts_with("x-")
}

fn is_type(kind: &Value) -> bool {
    let is_one = |kind: &Value| kind.as_str().is_some_and(|kind| TYPES.contains(&kind));
    is_one(kind)
        || kind
            .as_array()
            .is_some_and(|kinds| kinds.iter().all(is_one))
}

fn look<'s>(
    schema: &'s Value,
    root: &'s Value,
    reach: &mut Reach<'s>,
    place: &str,
    faults: &mut Vec<String>,
) {
    let Value::Object(object) = schema else {
        return;
    };
    faults.extend(
        object
            .iter()
            .filter_map(|(key, value)| keyword_fault(key, value, place)),
    );
    faults.extend(
        object
            .get("type")
            .filter(|kind| !is_type(kind))
            .map(|kind| {
                format!(
                    "{kind} of its {place} is no type of JSON Schema; those are {}",
                    TYPES.join(", ")
                )
            }),
    );
    faults.extend(list_fault(object, root, place));
    if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
        faults.extend(
            reference_fault(reference, root, reach)
                .map(|fault| format!("the `$ref` `{reference}` of its {place} {fault}")),
        );
    }
    let inner = |name: &str| format!("{place}.{name}");
    for (key, value) in object {
        match (key.as_str(), value) {
            (key, Value::Object(schemas)) if NAMED.contains(&key) => {
                schemas
                    .iter()
                    .for_each(|(name, schema)| look(schema, root, reach, &inner(name), faults));
            }
            (key, Value::Array(schemas)) if SEVERAL.contains(&key) => {
                schemas
                    .iter()
                    .for_each(|schema| look(schema, root, reach, place, faults));
            }
            (key, schema) if ONE.contains(&key) => look(schema, root, reach, &inner(key), faults),
            _ => {}
        }
    }
}

/// Why `key` of a schema is not what it seems to be.
fn keyword_fault(key: &str, value: &Value, place: &str) -> Option<String> {
    if key == "$ref" && !value.is_string() {
        return Some(format!(
            "the `$ref` of its {place} is {value}, which is not text"
        ));
    }
    let known = is_keyword(key);
    if is_own(key) || key.starts_with('$') {
        return None;
    }
    if let Some(meant) = (!known).then(|| meant(key)).flatten() {
        return Some(format!(
            "`{key}` of its {place} is no keyword of JSON Schema; write `{meant}`"
        ));
    }
    let holds_schemas = NAMED.contains(&key) || ONE.contains(&key) || SEVERAL.contains(&key);
    let odd =
        value.is_object() && !holds_schemas && !FREE.contains(&key) && !OBJECTS.contains(&key);
    match (odd, known) {
        // A word of someone's own that is no schema changes nothing beside keywords that do.
        (false, _) => None,
        (true, false) => Some(format!(
            "`{key}` of its {place} is no keyword of JSON Schema; properties belong under `properties`"
        )),
        (true, true) => Some(format!(
            "`{key}` of its {place} is a keyword of JSON Schema that takes no object; properties belong under `properties`"
        )),
    }
}

/// The keyword that `key` is written like: `min_length` is `minLength`, `requird` is `required`.
fn meant(key: &str) -> Option<&'static str> {
    let plain = |key: &str| key.replace(['_', '-'], "").to_lowercase();
    let alike = || keywords::all().find(|keyword| plain(keyword) == plain(key));
    alike().or_else(|| nearest(&plain(key)))
}

/// Lists of schemas by place have one keyword in older drafts and another in newer ones; in the
/// wrong one they say nothing.
fn list_fault(object: &Map<String, Value>, root: &Value, place: &str) -> Option<String> {
    let draft = root
        .get("$schema")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let older = ["draft-03", "draft-04", "draft-06", "draft-07", "2019-09"]
        .iter()
        .any(|name| draft.contains(name));
    if older && object.contains_key("prefixItems") {
        return Some(format!(
            "`prefixItems` of its {place} is not in the draft that `$schema` names; write `items` as a list"
        ));
    }
    let list = !older && object.get("items").is_some_and(Value::is_array);
    list.then(|| {
        format!("`items` of its {place} is a list, as older drafts have it; write `prefixItems`, or name the draft in `$schema`")
    })
}

/// Why `reference` leads nowhere.
fn reference_fault<'s>(
    reference: &str,
    root: &'s Value,
    reach: &mut Reach<'s>,
) -> Option<&'static str> {
    if !reference.starts_with('#') {
        return Some("leads out of the schema");
    }
    let Some(pointer) = pointer(reference) else {
        // An anchor: the validator finds it or refuses the schema.
        return None;
    };
    match root.pointer(&pointer) {
        None => Some("leads nowhere"),
        Some(target) => reach.leads_back(target).then_some("leads back to itself"),
    }
}
