//! The schema of a tool's parameters: what in it says nothing, and the validator that calls are held against.
//!
//! `nullable`, which OpenAPI has and JSON Schema lacks, is carried out. Keywords that no schema has, and references that
//! lead nowhere or back to themselves, are faults: a schema that says nothing must not look like one that was met.

use jsonschema::{ValidationError, Validator};
use serde_json::{Map, Value, json};

/// Keywords of JSON Schema and OpenAPI.
const KEYWORDS: [&str; 66] = [
    "type",
    "properties",
    "required",
    "description",
    "title",
    "default",
    "enum",
    "const",
    "items",
    "prefixItems",
    "additionalItems",
    "additionalProperties",
    "patternProperties",
    "propertyNames",
    "unevaluatedProperties",
    "unevaluatedItems",
    "minProperties",
    "maxProperties",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "minItems",
    "maxItems",
    "uniqueItems",
    "contains",
    "minContains",
    "maxContains",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "definitions",
    "examples",
    "example",
    "deprecated",
    "readOnly",
    "writeOnly",
    "nullable",
    "discriminator",
    "xml",
    "externalDocs",
    "strict",
    "id",
    "optional",
    "enumDescriptions",
    "propertyOrdering",
    "order",
    "name",
    "annotations",
    "comment",
    "markdownDescription",
];
/// Keywords whose value is one schema.
const ONE: [&str; 13] = [
    "items",
    "additionalItems",
    "additionalProperties",
    "propertyNames",
    "unevaluatedProperties",
    "unevaluatedItems",
    "contains",
    "contentSchema",
    "not",
    "if",
    "then",
    "else",
    "prefixItems",
];
/// Keywords whose value is a list of schemas.
const SEVERAL: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
/// Keywords whose value is an object of schemas.
const NAMED: [&str; 5] = ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];
/// Keywords whose schemas are held against the same value as their own schema is.
const IN_PLACE: [&str; 7] = ["allOf", "anyOf", "oneOf", "not", "if", "then", "else"];

/// A JSON pointer as people write it: `to.road/rail`.
pub(super) fn path(pointer: &str) -> String {
    let parts = pointer.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~"));
    parts.collect::<Vec<_>>().join(".")
}

/// The validator of `schema`.
pub(super) fn validator(schema: &Value) -> Result<Validator, ValidationError<'static>> {
    jsonschema::validator_for(&with_nullable(schema))
}

/// `schema` with `nullable: true` as JSON Schema has it.
fn with_nullable(schema: &Value) -> Value {
    let Value::Object(object) = schema else {
        return match schema {
            Value::Array(items) => items.iter().map(with_nullable).collect(),
            other => other.clone(),
        };
    };
    let mut object: Map<String, Value> = object
        .iter()
        .map(|(key, value)| {
            (
                key.clone(),
                if matches!(key.as_str(), "enum" | "const" | "default" | "examples") {
                    value.clone()
                } else {
                    with_nullable(value)
                },
            )
        })
        .collect();
    if object.get("nullable") == Some(&Value::Bool(true)) {
        object.remove("nullable");
        return json!({"anyOf": [{"type": "null"}, object]});
    }
    Value::Object(object)
}

/// What in `schema` says nothing, or leads nowhere.
pub(super) fn faults(schema: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    if let Some(kind) = schema.get("type").filter(|kind| **kind != "object" && **kind != json!(["object"])) {
        faults.push(format!("its parameters are of type {kind}; arguments are always an object"));
    }
    look(schema, schema, "parameters", &mut faults);
    faults
}

fn look(schema: &Value, root: &Value, place: &str, faults: &mut Vec<String>) {
    let Value::Object(object) = schema else { return };
    for key in object
        .keys()
        .filter(|key| !KEYWORDS.contains(&key.as_str()) && !key.starts_with(['$', '_']) && !key.starts_with("x-"))
    {
        // A word of someone's own that is not a schema changes nothing.
        if object[key].is_object() {
            faults.push(format!(
                "`{key}` of its {place} is no keyword of JSON Schema; properties belong under `properties`"
            ));
        }
    }
    if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
        faults.extend(
            reference_fault(reference, root).map(|fault| format!("the `$ref` `{reference}` of its {place} {fault}")),
        );
    }
    let inner = |name: &str| format!("{place}.{name}");
    for (key, value) in object {
        match (key.as_str(), value) {
            (key, Value::Object(schemas)) if NAMED.contains(&key) => {
                schemas.iter().for_each(|(name, schema)| look(schema, root, &inner(name), faults));
            }
            (key, Value::Array(schemas)) if SEVERAL.contains(&key) => {
                schemas.iter().for_each(|schema| look(schema, root, place, faults));
            }
            (key, schema) if ONE.contains(&key) => look(schema, root, &inner(key), faults),
            _ => {}
        }
    }
}

/// Why `reference` leads nowhere.
fn reference_fault(reference: &str, root: &Value) -> Option<&'static str> {
    let Some(pointer) = reference.strip_prefix('#') else { return Some("leads out of the schema") };
    if !pointer.is_empty() && !pointer.starts_with('/') {
        // An anchor: the validator finds it or refuses the schema.
        return None;
    }
    match root.pointer(pointer) {
        None => Some("leads nowhere"),
        Some(target) => leads_back(target, root, &mut vec![pointer.to_owned()]).then_some("leads back to itself"),
    }
}

/// Whether a value that is held against `schema` is held against the same schema again without end.
fn leads_back(schema: &Value, root: &Value, seen: &mut Vec<String>) -> bool {
    let next = schema.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix('#'));
    if let Some(pointer) = next {
        if seen.iter().any(|seen| seen == pointer) {
            return true;
        }
        seen.push(pointer.to_owned());
        let back = root.pointer(pointer).is_some_and(|target| leads_back(target, root, seen));
        seen.pop();
        if back {
            return true;
        }
    }
    IN_PLACE.iter().filter_map(|key| schema.get(*key)).any(|part| match part {
        Value::Array(schemas) => schemas.iter().any(|schema| leads_back(schema, root, seen)),
        schema => leads_back(schema, root, seen),
    })
}
