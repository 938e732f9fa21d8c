//! What Python prints under another name than a list, and what it prints with an address: ranges,
//! views of dictionaries, and the objects that a template refuses to print here.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, Value, functions};

use super::repr::text_of;

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

/// Items, and how Python prints them.
#[derive(Debug)]
struct Listed {
    items: Vec<Value>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// It has places, as a list has, but no sums, and no parts that print as a list.
    Range(String),
    /// `dict_keys`, `dict_values` or `dict_items`.
    View(&'static str),
}

impl Object for Listed {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        // minijinja would add and cut an iterable as a list.
        if matches!(self.kind, Kind::Range(_)) {
            ObjectRepr::Plain
        } else {
            ObjectRepr::Iterable
        }
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        if matches!(self.kind, Kind::View(_)) {
            return Some(Value::UNDEFINED);
        }
        let is_place = key.is_integer() || key.kind() == ValueKind::Bool;
        let place = i64::try_from(key.clone()).ok().filter(|_| is_place)?;
        let place = if place < 0 {
            place + self.items.len() as i64
        } else {
            place
        };
        self.items.get(usize::try_from(place).ok()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items.clone())
    }

    fn render(self: &Arc<Self>, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Range(text) => out.write_str(text),
            Kind::View(name) => write!(out, "{name}({})", text_of(&self.items.clone().into())),
        }
    }
}

/// `range(stop)` or `range(start, stop, step)`.
pub(super) fn range(
    start: isize,
    stop: Option<isize>,
    step: Option<isize>,
) -> Result<Value, Error> {
    let items = functions::range(start, stop, step)?.try_iter()?.collect();
    let (start, stop) = stop.map_or((0, start), |stop| (start, stop));
    let step = step
        .filter(|step| *step != 1)
        .map_or_else(String::new, |step| format!(", {step}"));
    Ok(Value::from_object(Listed {
        items,
        kind: Kind::Range(format!("range({start}, {stop}{step})")),
    }))
}

/// `keys`, `values` or `items` of a dictionary.
pub(super) fn view(dict: &Value, method: &str) -> Result<Option<Value>, Error> {
    let keys: Vec<Value> = dict.try_iter()?.collect();
    let values = || {
        keys.iter()
            .map(|key| dict.get_item(key))
            .collect::<Result<Vec<_>, _>>()
    };
    let (name, items) = match method {
        "keys" => ("dict_keys", keys),
        "values" => ("dict_values", values()?),
        "items" => {
            let values = values()?;
            let pairs = keys
                .into_iter()
                .zip(values)
                .map(|(key, value)| Value::from((key, value)));
            ("dict_items", pairs.collect())
        }
        _ => return Ok(None),
    };
    Ok(Some(Value::from_object(Listed {
        items,
        kind: Kind::View(name),
    })))
}

/// Whether `value` prints itself as Python prints it.
pub(super) fn is_listed(value: &Value) -> bool {
    value.downcast_object_ref::<Listed>().is_some()
}

/// Whether `value` is a range, which is a sequence in Python.
pub(super) fn is_range(value: &Value) -> bool {
    value
        .downcast_object_ref::<Listed>()
        .is_some_and(|listed| matches!(listed.kind, Kind::Range(_)))
}

/// Whether a range holds `value`; none where `container` is no range.
pub(super) fn range_holds(container: &Value, value: &Value) -> Option<bool> {
    let listed = container
        .downcast_object_ref::<Listed>()
        .filter(|listed| matches!(listed.kind, Kind::Range(_)));
    listed.map(|listed| listed.items.contains(value))
}

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
