//! JSON text as Python's `json.dumps(..., ensure_ascii=False)` writes it: that is what chat templates were made for.

use serde_json::Value;

/// `indent` as in Python: `None` puts all on one line with `, ` and `: `.
pub(crate) fn dumps(value: &Value, indent: Option<usize>) -> String {
    let mut out = String::new();
    write(value, indent, 0, &mut out);
    out
}

fn write(value: &Value, indent: Option<usize>, depth: usize, out: &mut String) {
    match value {
        Value::Array(items) => {
            let parts = items.iter().map(|item| (None, item));
            write_container('[', ']', parts, indent, depth, out);
        }
        Value::Object(map) => {
            let parts = map.iter().map(|(key, item)| (Some(key.as_str()), item));
            write_container('{', '}', parts, indent, depth, out);
        }
        Value::Number(number) => out.push_str(&number_text(number)),
        other => out.push_str(&other.to_string()),
    }
}

fn write_container<'a>(
    open: char,
    close: char,
    parts: impl ExactSizeIterator<Item = (Option<&'a str>, &'a Value)>,
    indent: Option<usize>,
    depth: usize,
    out: &mut String,
) {
    out.push(open);
    let empty = parts.len() == 0;
    for (i, (key, item)) in parts.enumerate() {
        if i > 0 {
            out.push_str(if indent.is_some() { "," } else { ", " });
        }
        new_line(indent, depth + 1, out);
        if let Some(key) = key {
            out.push_str(&Value::from(key).to_string());
            out.push_str(": ");
        }
        write(item, indent, depth + 1, out);
    }
    if !empty {
        new_line(indent, depth, out);
    }
    out.push(close);
}

fn new_line(indent: Option<usize>, depth: usize, out: &mut String) {
    if let Some(width) = indent {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', width * depth));
    }
}

/// Python writes floats below 1e-4 and from 1e16 on with an exponent of at least two digits.
fn number_text(number: &serde_json::Number) -> String {
    let Some(x) = number.as_f64().filter(|_| number.is_f64()) else { return number.to_string() };
    if x != 0.0 && (x.abs() < 1e-4 || x.abs() >= 1e16) {
        let text = format!("{x:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    let text = x.to_string();
    if text.contains('.') { text } else { text + ".0" }
}
