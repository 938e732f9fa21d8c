//! Which maps and objects of minijinja exist in Python too: dictionaries and their attributes, and
//! objects that Python prints with an address, which a template refuses to print here.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

use super::range::is_range;

/// Methods and fields of Python's `dict`, which `attr` would give.
const DICT: [&str; 11] = [
    "clear",
    "copy",
    "fromkeys",
    "get",
    "items",
    "keys",
    "pop",
    "popitem",
    "setdefault",
    "update",
    "values",
];

/// Whether Python has a dictionary there: a namespace and the state of a loop are maps to minijinja
/// alone.
pub(super) fn is_dict(value: &Value) -> bool {
    let own = |name: &str| {
        ["::Namespace", "::Loop"]
            .iter()
            .any(|ending| name.ends_with(ending))
    };
    value.kind() == ValueKind::Map
        && !value
            .as_object()
            .is_some_and(|object| own(object.type_name()))
}

/// `value`, unless Python prints it with an address or a name of its own.
pub(super) fn printable(value: &Value) -> Result<&Value, Error> {
    let what = match value.kind() {
        ValueKind::Plain if !is_range(value) => "a function or an object",
        ValueKind::Map if !is_dict(value) => "a namespace or a loop",
        ValueKind::Iterable if value.len().is_none() => "a generator",
        _ => return Ok(value),
    };
    let way_out = "print what it holds, such as `x | list`";
    Err(Error::new(
        ErrorKind::InvalidOperation,
        format!("{what} has no text that Python repeats; {way_out}"),
    ))
}

/// `attr(value, name)`: an attribute, never an item, so that a dictionary has its methods only.
pub(super) fn attr(value: &Value, name: &str) -> Result<Value, Error> {
    let refused = |what: &str| Err(Error::new(ErrorKind::InvalidOperation, what.to_owned()));
    match value.kind() {
        ValueKind::Plain | ValueKind::Undefined => value.get_attr(name),
        ValueKind::Map if !is_dict(value) => value.get_attr(name),
        _ if name.starts_with("__") => refused(&format!("`attr('{name}')` is not allowed")),
        ValueKind::Map if !DICT.contains(&name) => Ok(Value::UNDEFINED),
        kind => refused(&format!(
            "`attr('{name}')` of a {kind} is not supported; write `x.{name}`"
        )),
    }
}
