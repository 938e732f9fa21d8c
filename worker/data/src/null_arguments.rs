//! Null arguments of calls that mean "not given". Columns with one schema leave them in every row.
//!
//! A null is a value only where the schema of the tool names it as one (`type: [string, "null"]`,
//! `nullable`, an `enum` or `const` of null); elsewhere a null argument was not given. In Parquet
//! every missing value is null, and what is trained on must not depend on the file's format.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use serde_json::{Map, Value, json};

use crate::reference::References;
use crate::tools::function_of;

/// The schema of one tool, with what is known of it so far.
struct Tool<'s> {
    name: &'s Value,
    references: References<'s>,
    /// What [`Self::in_place`] has found, by the schemas that it was asked about: those of the items
    /// of a list are the same for each.
    found: HashMap<Vec<*const Value>, Rc<[&'s Value]>>,
}

/// Leaves out the null arguments that stand for nothing.
pub(crate) fn prune_arguments(messages: &mut [Value], tools: &[Value]) {
    let mut tools: Vec<Tool<'_>> = tools.iter().filter_map(function_of).map(Tool::of).collect();
    let calls = messages
        .iter_mut()
        .filter_map(|message| message.get_mut("tool_calls")?.as_array_mut())
        .flatten();
    for function in calls.filter_map(|call| call.get_mut("function")) {
        let known = tools.iter_mut().find(|tool| *tool.name == function["name"]);
        let Some(arguments) = function.get_mut("arguments") else {
            continue;
        };
        match known {
            Some(tool) => prune(arguments, &[tool.references.root], tool),
            None => prune(arguments, &[], &mut Tool::unknown()),
        }
    }
}

impl<'s> Tool<'s> {
    fn of(function: &'s Map<String, Value>) -> Self {
        Self {
            name: function.get("name").unwrap_or(&Value::Null),
            references: References::of(function.get("parameters").unwrap_or(&Value::Null)),
            found: HashMap::new(),
        }
    }

    /// One of which nothing is known.
    fn unknown() -> Self {
        Self {
            name: &Value::Null,
            references: References::of(&Value::Null),
            found: HashMap::new(),
        }
    }

    /// `schemas` and those that they are made of, references followed, each once.
    fn in_place(&mut self, schemas: &[&'s Value]) -> Rc<[&'s Value]> {
        let asked: Vec<*const Value> = schemas
            .iter()
            .map(|schema| std::ptr::from_ref(*schema))
            .collect();
        let references = &self.references;
        let found = self.found.entry(asked);
        Rc::clone(found.or_insert_with(|| in_place(schemas, references).into()))
    }
}

/// `schemas` are those that `value` is held against.
fn prune<'s>(value: &mut Value, schemas: &[&'s Value], tool: &mut Tool<'s>) {
    let schemas = tool.in_place(schemas);
    match value {
        Value::Object(object) => {
            object.retain(|key, value| {
                let of_key = of_property(&schemas, key);
                if value.is_null() {
                    let held = tool.in_place(&of_key);
                    let mut held = held.iter().filter(|schema| schema.is_object());
                    // A null where a value must stand is for the check to tell.
                    let required = requires(&schemas, key);
                    return held
                        .any(|schema| admits_null(schema) || required && tells_values(schema));
                }
                prune(value, &of_key, tool);
                true
            });
        }
        Value::Array(items) => {
            for (place, item) in items.iter_mut().enumerate() {
                let of_item: Vec<&Value> = schemas
                    .iter()
                    .filter_map(|schema| of_item(schema, place))
                    .collect();
                prune(item, &of_item, tool);
            }
        }
        _ => {}
    }
}

/// Those that the property `key` is held against where its object is held against `schemas`.
fn of_property<'s>(schemas: &[&'s Value], key: &str) -> Vec<&'s Value> {
    let mut found = Vec::new();
    for schema in schemas {
        let named = schema
            .get("properties")
            .and_then(|properties| properties.get(key));
        let patterns = schema
            .get("patternProperties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten();
        let matching = patterns
            .filter(|(pattern, _)| matches(pattern, key))
            .map(|(_, schema)| schema);
        let own: Vec<&Value> = named.into_iter().chain(matching).collect();
        let other = schema
            .get("additionalProperties")
            .filter(|_| own.is_empty());
        found.extend(own.into_iter().chain(other));
    }
    if found.is_empty() {
        found.extend(
            schemas
                .iter()
                .filter_map(|schema| schema.get("unevaluatedProperties")),
        );
    }
    found
}

/// Whether the regular expression `pattern`, as JSON Schema has them, finds something in `key`.
fn matches(pattern: &str, key: &str) -> bool {
    let schema = json!({"type": "string", "pattern": pattern});
    jsonschema::validator_for(&schema).is_ok_and(|validator| validator.is_valid(&json!(key)))
}

fn requires(schemas: &[&Value], key: &str) -> bool {
    let lists = schemas
        .iter()
        .filter_map(|schema| schema.get("required")?.as_array());
    lists.flatten().any(|name| name == key)
}

fn tells_values(schema: &Value) -> bool {
    ["type", "enum", "const"]
        .iter()
        .any(|key| schema.get(*key).is_some())
}

/// The schema of the item at `place`: lists of schemas come first, under either of their names.
fn of_item(schema: &Value, place: usize) -> Option<&Value> {
    let listed = |key: &str| schema.get(key).and_then(Value::as_array);
    let by_place = listed("prefixItems")
        .or_else(|| listed("items"))
        .and_then(|schemas| schemas.get(place));
    by_place
        .or_else(|| schema.get("items").filter(|items| !items.is_array()))
        .or_else(|| schema.get("additionalItems"))
}

/// The same, of which nothing is known yet.
fn in_place<'s>(schemas: &[&'s Value], known: &References<'s>) -> Vec<&'s Value> {
    let (mut found, mut seen) = (Vec::new(), HashSet::new());
    let mut waiting: Vec<&Value> = schemas.iter().rev().copied().collect();
    while let Some(schema) = waiting.pop() {
        if !seen.insert(std::ptr::from_ref(schema)) {
            continue;
        }
        found.push(schema);
        let references = ["$ref", "$dynamicRef", "$recursiveRef"]
            .iter()
            .filter_map(|key| schema.get(*key)?.as_str());
        waiting.extend(references.filter_map(|reference| known.target(reference)));
        let conditions = ["if", "then", "else"].iter();
        waiting.extend(conditions.filter_map(|key| schema.get(*key)));
        let dependent = schema.get("dependentSchemas").and_then(Value::as_object);
        waiting.extend(dependent.into_iter().flat_map(Map::values));
        let lists = ["anyOf", "oneOf", "allOf"].iter();
        waiting.extend(
            lists
                .filter_map(|key| schema.get(*key)?.as_array())
                .flatten(),
        );
    }
    found
}

fn admits_null(schema: &Value) -> bool {
    let has_null =
        |list: &Value, null: &Value| list.as_array().is_some_and(|list| list.contains(null));
    schema["type"] == "null"
        || has_null(&schema["type"], &"null".into())
        || schema["nullable"] == true
        || has_null(&schema["enum"], &Value::Null)
        || schema.get("const").is_some_and(Value::is_null)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pruned(parameters: &Value, arguments: Value) -> Value {
        let tools =
            [json!({"type": "function", "function": {"name": "f", "parameters": parameters}})];
        let mut messages =
            [json!({"tool_calls": [{"function": {"name": "f", "arguments": arguments}}]})];
        prune_arguments(&mut messages, &tools);
        messages[0]["tool_calls"][0]["function"]["arguments"].clone()
    }

    #[test]
    fn a_null_stays_only_where_the_schema_names_it() {
        let parameters = json!({
            "properties": {
                "plain": {"type": "string"},
                "listed": {"type": ["string", "null"]},
                "nullable": {"type": "string", "nullable": true},
                "chosen": {"enum": ["a", null]},
                "either": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                "named": {"$ref": "#/$defs/maybe"},
                "inner": {"properties": {"a": {"type": "string"}, "b": {"const": null}}},
                "list": {"items": {"properties": {"a": {"type": ["null", "string"]}}}},
            },
            "$defs": {"maybe": {"type": ["integer", "null"]}},
        });
        let given = json!({
            "plain": null, "listed": null, "nullable": null, "chosen": null, "either": null, "named": null,
            "unknown": null, "inner": {"a": null, "b": null}, "list": [{"a": null, "z": null}, null],
        });
        let kept = json!({
            "listed": null, "nullable": null, "chosen": null, "either": null, "named": null,
            "inner": {"b": null}, "list": [{"a": null}, null],
        });
        assert_eq!(pruned(&parameters, given), kept);
        let by_place = json!({"properties": {
            "new": {"prefixItems": [{"properties": {"a": {"nullable": true}}}], "items": {"properties": {"b": {"type": "null"}}}},
            "old": {"items": [{"properties": {"a": {"nullable": true}}}]},
            "named": {"$ref": "#/$defs/x%20y"},
        }, "$defs": {"x y": {"type": ["null", "string"]}}});
        let both = json!({"a": null, "b": null});
        assert_eq!(
            pruned(
                &by_place,
                json!({"new": [both, both], "old": [both], "named": null})
            ),
            json!({"new": [{"a": null}, {"b": null}], "old": [{"a": null}], "named": null})
        );
        assert_eq!(
            pruned(&Value::Null, json!({"a": null, "b": 1})),
            json!({"b": 1})
        );
        let loops = json!({"properties": {"a": {"$ref": "#/properties/b"}, "b": {"$ref": "#/properties/a"}}});
        assert_eq!(pruned(&loops, json!({"a": null, "b": 2})), json!({"b": 2}));
    }

    #[test]
    fn a_null_stays_wherever_a_schema_names_it() {
        let maybe = json!({"type": ["string", "null"]});
        let given = json!({"x_a": null, "b": null});
        for (parameters, kept) in [
            (
                json!({"patternProperties": {"^x_": maybe}}),
                json!({"x_a": null}),
            ),
            (
                json!({"patternProperties": {"^x_": {"type": "string"}}, "additionalProperties": maybe}),
                json!({"b": null}),
            ),
            (
                json!({"properties": {"b": {"type": "string"}}, "unevaluatedProperties": maybe}),
                json!({"x_a": null}),
            ),
            (
                json!({"if": {}, "then": {"properties": {"b": maybe}}}),
                json!({"b": null}),
            ),
            (
                json!({"else": {"properties": {"b": maybe}}}),
                json!({"b": null}),
            ),
            (
                json!({"properties": {"b": {"$dynamicRef": "#m"}}, "$defs": {"m": {"$dynamicAnchor": "m", "type": "null"}}}),
                json!({"b": null}),
            ),
            (
                json!({"properties": {"b": {"type": "string"}}, "required": ["b"]}),
                json!({"b": null}),
            ),
            (
                json!({"properties": {"b": {}}, "required": ["b"]}),
                json!({}),
            ),
        ] {
            assert_eq!(pruned(&parameters, given.clone()), kept, "{parameters}");
        }
    }

    #[test]
    fn a_document_is_searched_for_anchors_once() {
        let mut definitions = Map::new();
        for at in 0..20_000 {
            let next = json!([{"$ref": format!("#a{}", at + 1)}]);
            definitions.insert(
                format!("d{at}"),
                json!({"$anchor": format!("a{at}"), "allOf": next}),
            );
        }
        definitions.insert("last".into(), json!({"$anchor": "a20000", "type": "null"}));
        let parameters = json!({"properties": {"a": {"$ref": "#a0"}}, "$defs": definitions});
        let started = std::time::Instant::now();
        let given = json!({"a": null, "b": null});
        assert_eq!(pruned(&parameters, given), json!({"a": null}));
        assert!(started.elapsed().as_secs() < 30);
    }
}
