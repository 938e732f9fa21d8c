//! Which schemas a value is held against, and how many: references that stand twice in each of a row
//! of schemas double the work with each, up to more than any machine does.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::keywords::{IN_PLACE, NAMED, ONE, SEVERAL};
use crate::reference::References;

/// Schemas that a value is held against at the most; what an argument holds counts with it.
pub(super) const MOST: usize = 100_000;

/// Keywords that refer to a schema elsewhere.
const REFERENCES: [&str; 3] = ["$ref", "$dynamicRef", "$recursiveRef"];

static NOTHING: Value = Value::Null;

/// The ways from schema to schema within one document.
pub(super) struct Reach<'s> {
    references: References<'s>,
    /// What [`Self::count`] has found.
    counts: HashMap<*const Value, usize>,
    /// Schemas that lead on without end.
    endless: HashSet<*const Value>,
}

impl<'s> Reach<'s> {
    pub fn of(root: &'s Value) -> Self {
        Self {
            references: References::of(root),
            counts: HashMap::new(),
            endless: HashSet::new(),
        }
    }

    /// Those that a value is held against with `schema`.
    fn in_place(&self, schema: &'s Value) -> Vec<&'s Value> {
        let mut found: Vec<&'s Value> = references(schema)
            .filter_map(|reference| self.references.target(reference))
            .collect();
        for part in IN_PLACE.iter().filter_map(|key| schema.get(*key)) {
            match part {
                Value::Array(schemas) => found.extend(schemas),
                schema => found.push(schema),
            }
        }
        // Read in every draft; a list there holds names.
        for key in ["dependentSchemas", "dependencies"] {
            let dependent = schema.get(key).and_then(Value::as_object);
            let dependent = dependent.into_iter().flat_map(Map::values);
            found.extend(dependent.filter(|schema| !schema.is_array()));
        }
        found
    }

    /// Whether a value that is held against `schema` is held against the same schema again without
    /// end.
    pub fn leads_back(&mut self, schema: &'s Value) -> bool {
        self.count(schema).is_none()
    }

    /// A reference that is not followed here, and that what holds values against the document might
    /// follow: how many schemas it leads to is not known.
    pub fn unfollowed(&self) -> Option<&'s str> {
        let root = self.references.root;
        let (mut seen, mut waiting) = (HashSet::new(), vec![root]);
        let (mut first, mut has_bases) = (None, false);
        while let Some(schema) = waiting.pop() {
            if !seen.insert(std::ptr::from_ref(schema)) {
                continue;
            }
            // References within a part with a name of its own are relative to that name.
            has_bases |= !std::ptr::eq(schema, root) && is_base(schema, root);
            for reference in references(schema) {
                first = first.or(Some(reference));
                match self.references.target(reference) {
                    Some(target) => waiting.push(target),
                    None => return Some(reference),
                }
            }
            parts(schema, &mut waiting);
        }
        first.filter(|_| has_bases)
    }

    /// Whether one value is held against more than [`MOST`] schemas by some part of the document, or
    /// without end.
    pub fn multiplies(&mut self) -> bool {
        let mut parts = vec![self.references.root];
        while let Some(part) = parts.pop() {
            if references(part).next().is_some()
                && self.count(part).is_none_or(|count| count > MOST)
            {
                return true;
            }
            parts.extend(part.as_object().into_iter().flat_map(Map::values));
            parts.extend(part.as_array().into_iter().flatten());
        }
        false
    }

    /// How many schemas a value is held against with `start`, each as often as ways lead to it; none
    /// where they lead on without end.
    fn count(&mut self, start: &'s Value) -> Option<usize> {
        let mut open: HashSet<*const Value> = HashSet::new();
        // Each with whether all that it leads to has been counted.
        let mut waiting = vec![(start, false)];
        while let Some((schema, is_counted)) = waiting.pop() {
            let place = std::ptr::from_ref(schema);
            if is_counted {
                open.remove(&place);
                let inner = self.in_place(schema);
                let counts = inner
                    .into_iter()
                    .filter_map(|inner| self.counts.get(&std::ptr::from_ref(inner)));
                let count = counts.fold(1usize, |sum, count| sum.saturating_add(*count));
                self.counts.insert(place, count);
            } else if self.endless.contains(&place) || open.contains(&place) {
                self.endless.extend(open);
                return None;
            } else if !self.counts.contains_key(&place) {
                open.insert(place);
                waiting.push((schema, true));
                let inner = self.in_place(schema);
                waiting.extend(inner.into_iter().map(|schema| (schema, false)));
            }
        }
        self.counts.get(&std::ptr::from_ref(start)).copied()
    }

    /// Whether `value`, with all that it holds, is held against more than [`MOST`] schemas where it
    /// is held against `schema`.
    pub fn exceeds(&mut self, schema: &'s Value, value: &Value) -> bool {
        let (mut waiting, mut steps) = (vec![(schema, value)], 0);
        while let Some((schema, value)) = waiting.pop() {
            steps += 1;
            if steps > MOST {
                return true;
            }
            let beside = self.in_place(schema);
            waiting.extend(beside.into_iter().map(|schema| (schema, value)));
            match value {
                Value::Object(object) => of_properties(schema, object, &mut waiting),
                Value::Array(items) => of_items(schema, items, &mut waiting),
                _ => {}
            }
        }
        false
    }
}

/// The texts by which `schema` refers to others.
fn references(schema: &Value) -> impl Iterator<Item = &str> {
    let texts = REFERENCES.iter().filter_map(move |key| schema.get(*key));
    texts.filter_map(Value::as_str)
}

/// Whether `schema` has a name that references within are relative to.
fn is_base(schema: &Value, root: &Value) -> bool {
    let draft = root.get("$schema").and_then(Value::as_str);
    let is_old = draft.is_some_and(|draft| draft.contains("draft-04"));
    let key = if is_old { "id" } else { "$id" };
    let name = schema.get(key).and_then(Value::as_str);
    name.is_some_and(|name| !name.starts_with('#'))
}

/// Adds the schemas that `schema` is made of.
fn parts<'s>(schema: &'s Value, waiting: &mut Vec<&'s Value>) {
    for (key, value) in schema.as_object().into_iter().flatten() {
        let key = key.as_str();
        match value {
            Value::Object(schemas) if NAMED.contains(&key) => waiting.extend(schemas.values()),
            Value::Array(schemas) if SEVERAL.contains(&key) => waiting.extend(schemas),
            schema if ONE.contains(&key) => waiting.push(schema),
            _ => {}
        }
    }
}

/// What the properties of an object are held against, with them; of the others it may be too many.
fn of_properties<'s, 'v>(
    schema: &'s Value,
    object: &'v Map<String, Value>,
    waiting: &mut Vec<(&'s Value, &'v Value)>,
) {
    let named = schema.get("properties");
    let patterns = schema.get("patternProperties").and_then(Value::as_object);
    for (key, value) in object {
        let own = named.and_then(|named| named.get(key));
        let others = ["additionalProperties", "unevaluatedProperties"];
        let others = others.iter().filter_map(|key| schema.get(*key));
        let patterns = patterns.into_iter().flat_map(Map::values);
        let all = own.into_iter().chain(others).chain(patterns);
        waiting.extend(all.map(|schema| (schema, value)));
        waiting.extend(schema.get("propertyNames").map(|schema| (schema, &NOTHING)));
    }
}

/// The same for the items of a list.
fn of_items<'s, 'v>(
    schema: &'s Value,
    items: &'v [Value],
    waiting: &mut Vec<(&'s Value, &'v Value)>,
) {
    let keys = [
        "items",
        "prefixItems",
        "additionalItems",
        "unevaluatedItems",
        "contains",
    ];
    for (place, value) in items.iter().enumerate() {
        let schemas = keys.iter().filter_map(|key| match schema.get(*key)? {
            Value::Array(by_place) => by_place.get(place),
            schema => Some(schema),
        });
        waiting.extend(schemas.map(|schema| (schema, value)));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// `length` schemas, of which each refers to the next in the ways of `part`.
    fn chain(length: usize, part: impl Fn(Value) -> Value) -> Value {
        let mut definitions = Map::new();
        for at in 0..length {
            let next = json!({"$ref": format!("#/$defs/d{}", at + 1)});
            definitions.insert(format!("d{at}"), part(next));
        }
        definitions.insert(format!("d{length}"), json!({"type": "string"}));
        json!({"$defs": definitions, "properties": {"a": {"$ref": "#/$defs/d0"}}})
    }

    #[test]
    fn references_that_double_are_too_many_and_a_long_chain_is_not() {
        let dependent =
            |next: Value| json!({"dependencies": {"a": {"allOf": [next, next]}, "b": ["a"]}});
        assert!(Reach::of(&chain(40, dependent)).multiplies());
        for keyword in ["allOf", "anyOf", "oneOf"] {
            let twice = |next: Value| json!({keyword: [next, next]});
            assert!(Reach::of(&chain(40, twice)).multiplies(), "{keyword}");
            assert!(!Reach::of(&chain(8, twice)).multiplies(), "{keyword}");
            let once = |next: Value| json!({keyword: [next, {"maxLength": 9}]});
            assert!(!Reach::of(&chain(5_000, once)).multiplies(), "{keyword}");
        }
    }

    #[test]
    fn a_way_back_is_found_and_two_ways_to_one_schema_are_none() {
        let twice = chain(60, |next| json!({"allOf": [next, next], "not": next}));
        assert!(!Reach::of(&twice).leads_back(&twice["$defs"]["d0"]));
        let back = json!({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"if": {"$ref": "#/$defs/a"}}}});
        assert!(Reach::of(&back).leads_back(&back["$defs"]["a"]));
    }

    #[test]
    fn references_that_only_the_validator_follows_are_named() {
        let to = |reference: &str| json!({"$ref": reference});
        for (schema, wanted) in [
            (json!({"items": to("#/$defs/a"), "$defs": {"a": {}}}), None),
            (
                json!({"items": to("#a"), "$defs": {"a": {"$id": "#a"}}}),
                None,
            ),
            (json!({"$id": "b", "items": to("#")}), None),
            (json!({"properties": {"p": {"$id": "b"}}}), None),
            (json!({"default": to("b"), "enum": [to("b")]}), None),
            (
                json!({"items": to("b"), "$defs": {"a": {"$id": "b"}}}),
                Some("b"),
            ),
            (json!({"properties": {"default": to("b")}}), Some("b")),
            (json!({"$dynamicRef": "#a"}), Some("#a")),
            (
                json!({"items": to("#/x/default"), "x": {"default": to("b")}}),
                Some("b"),
            ),
            (
                json!({"items": {"$id": "b", "items": to("#/$defs/c")}, "$defs": {"c": {}}}),
                Some("#/$defs/c"),
            ),
            (
                json!({"$schema": "http://json-schema.org/draft-04/schema#", "items": {"id": "b", "items": to("#")}}),
                Some("#"),
            ),
        ] {
            assert_eq!(Reach::of(&schema).unfollowed(), wanted, "{schema}");
        }
    }

    #[test]
    fn what_a_value_holds_counts_with_it() {
        let node = json!({"$ref": "#"});
        let tree = json!({"properties": {"a": {"allOf": [node, node]}, "b": {"type": "array", "items": node}}});
        let deep = |depth: usize, key: &str| {
            (0..depth).fold(json!({}), |inner, _| {
                if key == "b" {
                    json!({"b": [inner]})
                } else {
                    json!({"a": inner})
                }
            })
        };
        assert!(Reach::of(&tree).exceeds(&tree, &deep(60, "a")));
        assert!(!Reach::of(&tree).exceeds(&tree, &deep(8, "a")));
        assert!(!Reach::of(&tree).exceeds(&tree, &deep(60, "b")));
    }
}
