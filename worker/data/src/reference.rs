//! References within a schema: JSON pointers in the fragment of a URI, whose characters may be
//! written as `%20`.

use serde_json::{Map, Value};

/// The part of `root` that `reference` names; none where it leads nowhere, out of the schema, or to
/// an anchor.
pub(crate) fn resolve<'s>(root: &'s Value, reference: &str) -> Option<&'s Value> {
    root.pointer(&pointer(reference)?)
}

/// The same, by an anchor too.
pub(crate) fn target<'s>(root: &'s Value, reference: &str) -> Option<&'s Value> {
    resolve(root, reference).or_else(|| anchored(root, reference))
}

/// The part of `root` with the anchor that `reference` names.
fn anchored<'s>(root: &'s Value, reference: &str) -> Option<&'s Value> {
    let name = reference
        .strip_prefix('#')
        .filter(|name| !name.is_empty())?;
    let mut waiting = vec![root];
    while let Some(schema) = waiting.pop() {
        if schema["$anchor"] == name || schema["$dynamicAnchor"] == name {
            return Some(schema);
        }
        waiting.extend(schema.as_object().into_iter().flat_map(Map::values));
        waiting.extend(schema.as_array().into_iter().flatten());
    }
    None
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
                resolve(&root, reference),
                wanted.map(|n| json!(n)).as_ref(),
                "{reference}"
            );
        }
        assert_eq!(resolve(&root, "#"), Some(&root));
        let root = json!({"$defs": {"a": {"$anchor": "here", "type": "null"}}});
        assert_eq!(target(&root, "#here"), Some(&root["$defs"]["a"]));
        assert_eq!(target(&root, "#there"), None);
    }
}
