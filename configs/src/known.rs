//! The keys that a configuration has, as the defaults name them all, and what was probably meant by
//! another one.

use figment::value::{Dict, Value};

use crate::foreign;
use crate::presets::DEFAULTS;
use crate::yaml;

/// The preset to start from; it is read before the layers are merged.
const EXTENDS: &str = "extends";
/// Keys that take text, whatever the text looks like.
const TEXT: [&str; 5] = [
    "name",
    "model.base",
    "data.train",
    "data.eval",
    "data.template",
];
/// Keys under this one are anyone's own, and take text.
const LABELS: &str = "resources.labels";

/// A key that no configuration has.
pub(crate) struct Unknown {
    pub path: Vec<String>,
    pub help: String,
}

/// Whether the key takes text.
pub(crate) fn is_text(key: &str) -> bool {
    TEXT.contains(&key)
        || key
            .strip_prefix(LABELS)
            .is_some_and(|rest| rest.starts_with('.'))
}

/// Removes every unknown key from `dict`, with what helps for each.
pub(crate) fn take_unknown(dict: &mut Dict) -> Vec<Unknown> {
    let known = defaults();
    let mut found = Vec::new();
    walk(dict, &known, &mut Vec::new(), &known, &mut found);
    found
}

/// Removes every list from `dict` that stands where a section belongs, and names the section: its
/// values would be read by their place.
pub(crate) fn take_lists(dict: &mut Dict) -> Vec<String> {
    let known = defaults();
    let is_list = |key: &str, value: &Value| {
        matches!(value, Value::Array(..)) && matches!(known.get(key), Some(Value::Dict(..)))
    };
    let found: Vec<String> = dict
        .iter()
        .filter(|(key, value)| is_list(key, value))
        .map(|(key, _)| key.clone())
        .collect();
    dict.retain(|key, _| !found.contains(key));
    found
}

/// The longest part of `path` that has a default, and that default.
pub(crate) fn default_of(path: &[String]) -> Option<(Vec<String>, Value)> {
    let root = defaults();
    let mut found = None;
    let mut dict = Some(&root);
    for (i, part) in path.iter().enumerate() {
        let Some(value) = dict.and_then(|dict| dict.get(part)) else {
            break;
        };
        found = Some((path[..=i].to_vec(), value.clone()));
        dict = value.as_dict();
    }
    found
}

/// Every key with its default, by section.
pub(crate) fn defaults() -> Dict {
    match yaml::read(DEFAULTS) {
        Ok(Value::Dict(_, dict)) => dict,
        _ => Dict::new(),
    }
}

fn walk(
    dict: &mut Dict,
    known: &Dict,
    path: &mut Vec<String>,
    root: &Dict,
    found: &mut Vec<Unknown>,
) {
    dict.retain(|key, value| {
        path.push(key.clone());
        let is_known = path.join(".") == EXTENDS || known.contains_key(key);
        if !is_known {
            found.push(Unknown {
                path: path.clone(),
                help: meant(path, value, known, root),
            });
        }
        // An empty section of the defaults is one with keys of anyone's own.
        if let (Value::Dict(_, inner), Some(Value::Dict(_, known))) = (value, known.get(key))
            && !known.is_empty()
        {
            walk(inner, known, path, root, found);
        }
        path.pop();
        is_known
    });
}

/// The section of ours that has `key`.
pub(crate) fn section_of(key: &str) -> Option<String> {
    let has = |section: &Value| {
        section
            .as_dict()
            .is_some_and(|section| section.contains_key(key))
    };
    defaults()
        .into_iter()
        .find(|(_, section)| has(section))
        .map(|(name, _)| name)
}

/// The known key that was probably meant: the same one in its section, one that is spelled alike, or
/// ours for one of another tool. `value` stands behind the unknown one.
fn meant(path: &[String], value: &Value, siblings: &Dict, root: &Dict) -> String {
    let key = path.last().map(String::as_str).unwrap_or_default();
    let parent = path[..path.len().saturating_sub(1)].join(".");
    let full = |name: &str| {
        if parent.is_empty() {
            name.to_owned()
        } else {
            format!("{parent}.{name}")
        }
    };
    if let Some(section) = section_of(key) {
        return format!("did you mean `{section}.{key}`?");
    }
    if !parent.is_empty() && (root.contains_key(key) || key == EXTENDS) {
        return format!("`{key}` stands at the top of the file, without an indent");
    }
    if let Some(ours) = foreign::ours(key) {
        return ours.into();
    }
    if key.starts_with("x-") || key.starts_with('.') {
        return "an anchor needs no key of its own; write `&anchor` where the value is used first"
            .into();
    }
    // `{learning_rate: 1,5}` is read as a second key, `5`, with nothing behind it.
    let is_number = !key.is_empty() && key.bytes().all(|b| b.is_ascii_digit());
    if is_number && matches!(value, Value::Empty(..)) {
        return "inside { } a comma ends a value: a number with a fraction is written with a point, such as 1.5".into();
    }
    let lower = key.to_lowercase().replace('-', "_");
    let best = siblings
        .keys()
        .map(|name| (strsim::damerau_levenshtein(&lower, name), name))
        .min();
    match best {
        Some((distance, name)) if !is_number && distance <= 2.max(key.len() / 3) => {
            format!("did you mean `{}`?", full(name))
        }
        _ => {
            let names: Vec<&str> = siblings.keys().map(String::as_str).collect();
            format!(
                "{} takes {}",
                if parent.is_empty() {
                    "the file"
                } else {
                    &parent
                },
                names.join(", ")
            )
        }
    }
}
