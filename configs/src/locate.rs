//! Finds the line and column of a key in YAML text.
//!
//! figment knows which layer a value came from but not where in the file it stood, so the text is
//! parsed once more into a tree whose keys carry their positions.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location as Position, Spanned};

use crate::yaml::read_with_repeated;

enum Node {
    Map(Vec<(Spanned<String>, Node)>),
    Seq(Vec<Spanned<Node>>),
    Scalar,
}

/// The text as a tree; a key that is given twice stands in it twice.
fn parse(yaml: &str) -> Option<Node> {
    read_with_repeated(yaml)
}

/// Keys that are given more than once, with the lines where they stand.
pub(crate) fn repeated(yaml: &str) -> Vec<(String, Vec<u64>)> {
    let mut found = Vec::new();
    if let Some(root) = parse(yaml) {
        collect_repeated(&root, "", &mut found);
    }
    found
}

fn collect_repeated(node: &Node, parent: &str, found: &mut Vec<(String, Vec<u64>)>) {
    match node {
        Node::Map(entries) => {
            for (i, (key, value)) in entries.iter().enumerate() {
                let path = if parent.is_empty() {
                    key.value.clone()
                } else {
                    format!("{parent}.{}", key.value)
                };
                let same = entries.iter().filter(|(other, _)| other.value == key.value);
                let lines: Vec<u64> = same.map(|(other, _)| other.referenced.line()).collect();
                let is_first = !entries[..i]
                    .iter()
                    .any(|(other, _)| other.value == key.value);
                if lines.len() > 1 && is_first {
                    found.push((path.clone(), lines));
                }
                collect_repeated(value, &path, found);
            }
        }
        Node::Seq(items) => items
            .iter()
            .for_each(|item| collect_repeated(&item.value, parent, found)),
        Node::Scalar => {}
    }
}

/// Line and column, from 1, of the deepest part of `path` that exists in `yaml`.
pub(crate) fn locate(yaml: &str, path: &[String]) -> Option<(u64, u64)> {
    let root = parse(yaml)?;
    let mut found: Option<Position> = None;
    let mut node = &root;
    for part in path {
        match node {
            Node::Map(entries) => {
                let Some((key, value)) = entries.iter().find(|(k, _)| &k.value == part) else {
                    break;
                };
                found = Some(key.referenced);
                node = value;
            }
            Node::Seq(items) => {
                let Some(item) = part.parse().ok().and_then(|i: usize| items.get(i)) else {
                    break;
                };
                found = Some(item.referenced);
                node = &item.value;
            }
            Node::Scalar => break,
        }
    }
    found.map(|p| (p.line(), p.column()))
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

macro_rules! scalars {
    ($($visit:ident: $ty:ty),*) => {
        $(fn $visit<E: de::Error>(self, _: $ty) -> Result<Node, E> { Ok(Node::Scalar) })*
    };
}

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    scalars!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str,
             visit_i128: i128, visit_u128: u128);

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_none<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Node, D::Error> {
        Node::deserialize(d)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::Seq(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}
