//! Values under keys with dots.

use figment::value::{Dict, Value};

use crate::known::is_text;
use crate::yaml;

/// `a.b` and `1` become `{a: {b: 1}}`. The value is read as YAML, and as plain text where it is
/// none or where the key takes text: a shell has no quotes left that could tell `007` from 7.
pub(crate) fn nest(key: &str, value: &str) -> Dict {
    let plain = || Value::from(value);
    let parsed = match yaml::read(value) {
        Ok(value @ (Value::String(..) | Value::Empty(..))) => value,
        Ok(_) if is_text(key) => plain(),
        Ok(value) => value,
        Err(_) => plain(),
    };
    nest_value(
        &key.split('.').map(str::to_owned).collect::<Vec<_>>(),
        parsed,
    )
}

/// A value under the keys of `path`, each in the one before.
pub(crate) fn nest_value(path: &[String], value: Value) -> Dict {
    match path {
        [] => Dict::new(),
        [last] => Dict::from([(last.clone(), value)]),
        [first, rest @ ..] => Dict::from([(first.clone(), Value::from(nest_value(rest, value)))]),
    }
}

/// Whether `dict` sets the key at `path`.
pub(crate) fn holds(dict: &Dict, path: &[String]) -> bool {
    match path {
        [] => false,
        [last] => dict.contains_key(last),
        [first, rest @ ..] => dict
            .get(first)
            .and_then(Value::as_dict)
            .is_some_and(|inner| holds(inner, rest)),
    }
}
