//! Values as Python's `repr` prints them, for templates that print a list or an object. Views of
//! dictionaries, which Python prints under a name of their own, are among them: a list prints the
//! views in it, and a view prints the lists in it.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, ValueKind};
use minijinja::{Error, Value};

use super::json::number_text;

/// `value` as Python's `str` gives it.
pub(super) fn text_of(value: &Value) -> String {
    match value.kind() {
        ValueKind::Number | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
            repr(value).unwrap_or_else(|_| value.to_string())
        }
        _ => value.to_string(),
    }
}

fn repr(value: &Value) -> Result<String, Error> {
    Ok(match value.kind() {
        ValueKind::Number => match f64::try_from(value.clone()) {
            Ok(number) if number.is_nan() => "nan".into(),
            Ok(number) if number.is_infinite() => if number > 0.0 { "inf" } else { "-inf" }.into(),
            _ => number_text(value),
        },
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Iterable if is_view(value) || value.len().is_none() => value.to_string(),
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value
                .try_iter()?
                .map(|item| repr(&item))
                .collect::<Result<Vec<_>, _>>()?;
            match (value.is_tuple(), items.len()) {
                (true, 1) => format!("({},)", items[0]),
                (true, _) => format!("({})", items.join(", ")),
                (false, _) => format!("[{}]", items.join(", ")),
            }
        }
        ValueKind::Map => {
            let entry = |key: Value| {
                Ok(format!(
                    "{}: {}",
                    repr(&key)?,
                    repr(&value.get_item(&key)?)?
                ))
            };
            let entries = value
                .try_iter()?
                .map(entry)
                .collect::<Result<Vec<_>, Error>>()?;
            format!("{{{}}}", entries.join(", "))
        }
        ValueKind::Undefined => "Undefined".into(),
        _ => value.to_string(),
    })
}

/// Python quotes with `'`, unless the text holds some and no `"`.
pub(super) fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => {
                let code = u32::from(c);
                out.push_str(&match code {
                    0..=0xff => format!("\\x{code:02x}"),
                    0x100..=0xffff => format!("\\u{code:04x}"),
                    _ => format!("\\U{code:08x}"),
                });
            }
        }
    }
    out.push(quote);
    out
}

/// As `str.isprintable`: Rust escapes the same characters, and quotation marks.
pub(super) fn is_printable(c: char) -> bool {
    // Behind another character, combining ones are not escaped.
    matches!(c, '\'' | '"' | '\\')
        || format!("a{c}")
            .escape_debug()
            .skip(1)
            .eq(std::iter::once(c))
}

/// What a dictionary's `keys`, `values` or `items` give.
#[derive(Debug)]
struct View {
    /// `dict_keys`, `dict_values` or `dict_items`.
    name: &'static str,
    items: Vec<Value>,
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn get_value(self: &Arc<Self>, _: &Value) -> Option<Value> {
        Some(Value::UNDEFINED)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items.clone())
    }

    fn render(self: &Arc<Self>, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{}({})",
            self.name,
            text_of(&self.items.clone().into())
        )
    }
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
    Ok(Some(Value::from_object(View { name, items })))
}

/// Whether `value` prints itself as Python prints it.
fn is_view(value: &Value) -> bool {
    value.downcast_object_ref::<View>().is_some()
}
