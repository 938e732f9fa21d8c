//! Texts that are marked as safe, as Python's MarkupSafe has them.

use minijinja::{Error, ErrorKind, Value};

use super::repr::text_of;

/// A sum of texts of which one is marked as safe: Python escapes the others.
pub(super) fn markup_sum(terms: Vec<Value>) -> Result<Value, Error> {
    let mut sum = String::new();
    let mut safe = false;
    for term in terms {
        let Some(text) = term.as_str() else {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                format!("a text and {} cannot be added", term.kind()),
            ));
        };
        if term.is_safe() && !safe {
            sum = escaped(&sum);
        }
        safe |= term.is_safe();
        sum.push_str(&if safe && !term.is_safe() {
            escaped(text)
        } else {
            text.to_owned()
        });
    }
    Ok(if safe {
        Value::from_safe_string(sum)
    } else {
        sum.into()
    })
}

/// `escape(value)`; a text that is marked as safe stays as it is.
pub(super) fn escape(value: &Value) -> Value {
    if value.is_safe() {
        value.clone()
    } else {
        Value::from_safe_string(escaped(&text_of(value)))
    }
}

/// `text` as Python's MarkupSafe escapes it.
fn escaped(text: &str) -> String {
    let entity = |c: char| -> String {
        match c {
            '&' => "&amp;".into(),
            '<' => "&lt;".into(),
            '>' => "&gt;".into(),
            '"' => "&#34;".into(),
            '\'' => "&#39;".into(),
            c => c.to_string(),
        }
    };
    text.chars().map(entity).collect()
}
