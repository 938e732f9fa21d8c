//! JSON text as Python's `json.dumps` writes it, and the `tojson` filter of transformers on top of
//! it: that is what chat templates were made for.

use std::collections::BTreeMap;

use minijinja::value::{Kwargs, Rest, Value, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Error, ErrorKind};

/// How `json.dumps` writes.
#[derive(Debug, Default)]
struct Style {
    ensure_ascii: bool,
    /// What one level is indented by; none puts all on one line.
    indent: Option<String>,
    /// Between items and after a key, where they are not Python's own.
    separators: Option<(String, String)>,
    sort_keys: bool,
}

/// `tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`, as
/// transformers defines it.
pub(super) fn tojson(value: &Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    let (positional, kwargs): (&[Value], Kwargs) = from_args(&args)?;
    if positional.len() > 4 {
        return Err(Error::new(
            ErrorKind::TooManyArguments,
            "tojson takes four arguments",
        ));
    }
    let argument = |place: usize, name: &str| -> Result<Option<Value>, Error> {
        let named: Option<Value> = kwargs.get(name)?;
        Ok(named
            .or_else(|| positional.get(place).cloned())
            .filter(|value| !value.is_none() && !value.is_undefined()))
    };
    let style = Style {
        ensure_ascii: argument(0, "ensure_ascii")?.is_some_and(|value| value.is_true()),
        indent: argument(1, "indent")?
            .map(|value| indent(&value))
            .transpose()?,
        separators: argument(2, "separators")?
            .map(|value| separators(&value))
            .transpose()?,
        sort_keys: argument(3, "sort_keys")?.is_some_and(|value| value.is_true()),
    };
    kwargs.assert_all_used()?;
    let mut out = String::new();
    style.write(value, 0, &mut out)?;
    Ok(Value::from(out))
}

fn indent(value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        // As Python has it, a negative number breaks lines and indents by nothing.
        None => Ok(" ".repeat(
            u16::try_from(i64::try_from(value.clone())?.max(0))
                .unwrap_or(u16::MAX)
                .into(),
        )),
    }
}

fn separators(value: &Value) -> Result<(String, String), Error> {
    let parts: Vec<String> = value.try_iter()?.map(|part| part.to_string()).collect();
    match <[String; 2]>::try_from(parts) {
        Ok([item, key]) => Ok((item, key)),
        Err(_) => Err(Error::new(
            ErrorKind::InvalidOperation,
            "separators are two texts: one between items, one after a key",
        )),
    }
}

impl Style {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number_text(value)),
            ValueKind::String => self.write_text(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq => {
                let items = value.try_iter()?.map(|item| (None, item)).collect();
                self.write_container(['[', ']'], items, depth, out)?;
            }
            ValueKind::Map => {
                let entry = |key: Value| Ok((Some(key_text(&key)?), value.get_item(&key)?));
                let mut entries = value
                    .try_iter()?
                    .map(entry)
                    .collect::<Result<Vec<_>, Error>>()?;
                if self.sort_keys {
                    let sorted: BTreeMap<_, _> = entries.into_iter().collect();
                    entries = sorted.into_iter().collect();
                }
                self.write_container(['{', '}'], entries, depth, out)?;
            }
            other => {
                let fault = format!("a value that is {other} cannot be written as JSON");
                return Err(Error::new(ErrorKind::InvalidOperation, fault));
            }
        }
        Ok(())
    }

    fn write_container(
        &self,
        [open, close]: [char; 2],
        parts: Vec<(Option<String>, Value)>,
        depth: usize,
        out: &mut String,
    ) -> Result<(), Error> {
        let own = if self.indent.is_some() {
            (",", ": ")
        } else {
            (", ", ": ")
        };
        let (between, after_key) = self
            .separators
            .as_ref()
            .map_or(own, |(item, key)| (item, key));
        out.push(open);
        let empty = parts.is_empty();
        for (i, (key, item)) in parts.into_iter().enumerate() {
            if i > 0 {
                out.push_str(between);
            }
            self.new_line(depth + 1, out);
            if let Some(key) = key {
                self.write_text(&key, out);
                out.push_str(after_key);
            }
            self.write(&item, depth + 1, out)?;
        }
        if !empty {
            self.new_line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn new_line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    }

    fn write_text(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && !(' '..='~').contains(&c)) => {
                    let mut units = [0u16; 2];
                    out.extend(
                        c.encode_utf16(&mut units)
                            .iter()
                            .map(|unit| format!("\\u{unit:04x}")),
                    );
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// Keys that are no text are written as their value is.
fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None => Ok("null".into()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.into()),
        ValueKind::Number => Ok(number_text(key)),
        other => Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("a key of JSON cannot be {other}"),
        )),
    }
}

/// The digits of a number as Python's `repr` has them.
pub(super) fn number_text(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    f64::try_from(value.clone()).map_or_else(|_| value.to_string(), fraction_text)
}

/// Python writes floats below 1e-4 and from 1e16 on with an exponent of at least two digits.
fn fraction_text(x: f64) -> String {
    if !x.is_finite() {
        let text = if x.is_nan() { "NaN" } else { "Infinity" };
        return if x < 0.0 {
            format!("-{text}")
        } else {
            text.into()
        };
    }
    if x != 0.0 && (x.abs() < 1e-4 || x.abs() >= 1e16) {
        let text = format!("{x:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = exponent
            .strip_prefix('-')
            .map_or(('+', exponent), |digits| ('-', digits));
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    let text = x.to_string();
    if text.contains('.') {
        text
    } else {
        text + ".0"
    }
}
