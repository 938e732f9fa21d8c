//! References within a schema: JSON pointers in the fragment of a URI, whose characters may be
//! written as `%20`, and anchors.

use std::cell::OnceCell;
use std::collections::HashMap;

use serde_json::{Map, Value};

/// The references of one document, which is searched for anchors at most once.
pub(crate) struct References<'s> {
    pub root: &'s Value,
    anchors: OnceCell<HashMap<&'s str, &'s Value>>,
}

impl<'s> References<'s> {
    pub fn of(root: &'s Value) -> Self {
        Self {
            root,
            anchors: OnceCell::new(),
        }
    }

    /// The part of the document that `reference` names, by a pointer or by an anchor; none where it
    /// leads nowhere or out of the document.
    pub fn target(&self, reference: &str) -> Option<&'s Value> {
        if let Some(pointer) = pointer(reference) {
            return self.root.pointer(&pointer);
        }
        let name = reference.strip_prefix('#')?;
        let anchors = self.anchors.get_or_init(|| anchors(self.root));
        anchors.get(name).copied()
    }
}

/// The parts of `root` that have an anchor, by its name. Up to draft 7 it is an `$id`, in draft 4 an
/// `id`, that begins with `#`.
fn anchors(root: &Value) -> HashMap<&str, &Value> {
    let (mut found, mut waiting) = (HashMap::new(), vec![root]);
    while let Some(schema) = waiting.pop() {
        let text = move |key: &str| schema.get(key).and_then(Value::as_str);
        let own = ["$anchor", "$dynamicAnchor"].into_iter().filter_map(text);
        let older = ["$id", "id"].into_iter().filter_map(text);
        for name in own.chain(older.filter_map(|id| id.strip_prefix('#'))) {
            found.entry(name).or_insert(schema);
        }
        waiting.extend(schema.as_object().into_iter().flat_map(Map::values));
        waiting.extend(schema.as_array().into_iter().flatten());
    }
    found
}

/// The JSON pointer of `reference`, none where it is no pointer into its own document.
pub(crate) fn pointer(reference: &str) -> Option<String> {
    let pointer = decoded(reference.strip_prefix('#')?)?;
    (pointer.is_empty() || pointer.starts_with('/')).then_some(pointer)
}

fn decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let digits = after
                .get(..2)
                .and_then(|digits| std::str::from_utf8(digits).ok())?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_may_hold_any_character() {
        let root = json!({"$defs": {"a b": 1, "c/d": 2, "e~f": 3, "%": 4, "ü": 5}});
        for (reference, wanted) in [
            ("#/$defs/a%20b", Some(1)),
            ("#/$defs/a b", Some(1)),
            ("#/$defs/c~1d", Some(2)),
            ("#/$defs/e~0f", Some(3)),
            ("#/%24defs/%25", Some(4)),
            ("#/$defs/%C3%BC", Some(5)),
            ("#/$defs/c/d", None),
            ("#/$defs/%", None),
            ("#anchor", None),
            ("other.json#/$defs/a", None),
        ] {
            assert_eq!(
                References::of(&root).target(reference),
                wanted.map(|n| json!(n)).as_ref(),
                "{reference}"
            );
        }
        assert_eq!(References::of(&root).target("#"), Some(&root));
    }

    #[test]
    fn anchors_of_every_draft_are_found() {
        for key in ["$anchor", "$dynamicAnchor", "$id", "id"] {
            let name = if key.ends_with("id") { "#here" } else { "here" };
            let root = json!({"$defs": {"a": {key: name, "type": "null"}}});
            let references = References::of(&root);
            assert_eq!(
                references.target("#here"),
                Some(&root["$defs"]["a"]),
                "{key}"
            );
            assert_eq!(references.target("#there"), None);
        }
    }
}
