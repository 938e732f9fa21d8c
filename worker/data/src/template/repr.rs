//! Values as Python's `repr` prints them: what a template writes that prints a list or an object.

use minijinja::value::ValueKind;
use minijinja::{Error, Value};

use super::json::number_text;
use super::listed;

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
        ValueKind::Iterable if listed::is_listed(value) || value.len().is_none() => {
            value.to_string()
        }
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
