//! What a value of the wrong type or word is told.

use figment::error::{Actual, Kind};

/// A fault in words, with the key it is about.
pub(crate) struct Explained {
    pub path: Vec<String>,
    pub code: &'static str,
    pub message: String,
    pub help: Option<String>,
}

pub(crate) fn explain(error: &figment::Error) -> Explained {
    let mut path = error.path.clone();
    if let Kind::MissingField(key) = &error.kind {
        path.push(key.to_string());
    }
    let key = path.join(".");
    let (code, message, help) = match &error.kind {
        Kind::MissingField(_) => ("Q0106", format!("`{key}` is missing"), None),
        Kind::UnknownVariant(value, expected) => {
            ("Q0107", format!("`{key}` cannot be `{value}`"), Some(format!("it takes {}", expected.join(", "))))
        }
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            let (message, help) = wrong(&key, actual, expected);
            ("Q0108", message, help)
        }
        kind => ("Q0108", format!("`{key}`: {kind}"), None),
    };
    Explained { path, code, message, help }
}

fn wrong(key: &str, actual: &Actual, expected: &str) -> (String, Option<String>) {
    let wanted = wanted(expected);
    let help = match (actual, wanted) {
        (Actual::Unit, SECTION) => {
            return (format!("`{key}:` is empty"), Some("give it keys, or remove the line".into()));
        }
        (Actual::Unit, _) => return (format!("`{key}` is empty"), Some("give it a value, or remove the line".into())),
        (Actual::Str(text), NUMBER | WHOLE) if text.trim().parse::<f64>().is_ok() => {
            Some(format!("write {} without quotes", text.trim()))
        }
        (Actual::Str(text), FLAG) if ["yes", "on", "y"].contains(&text.to_lowercase().as_str()) => {
            Some("write true".into())
        }
        (Actual::Str(text), FLAG) if ["no", "off", "n"].contains(&text.to_lowercase().as_str()) => {
            Some("write false".into())
        }
        (Actual::Unsigned(_) | Actual::Signed(_) | Actual::Float(_) | Actual::Bool(_), TEXT) => {
            Some(format!("write it in quotes: \"{}\"", found(actual)))
        }
        (Actual::Signed(n), WHOLE) if *n < 0 => {
            return (format!("`{key}` is {n}, below 0"), Some("it takes a whole number from 0 on".into()));
        }
        _ => None,
    };
    (format!("`{key}` must be {wanted}, not {}", found(actual)), help)
}

const WHOLE: &str = "a whole number";
const NUMBER: &str = "a number";
const TEXT: &str = "text";
const FLAG: &str = "true or false";
const SECTION: &str = "a section of keys";
const LIST: &str = "a list";

/// serde's name of a type in the words of people.
fn wanted(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" | "i32" | "i64" => WHOLE,
        "f32" | "f64" => NUMBER,
        "string" | "a string" | "a borrowed string" => TEXT,
        "bool" | "boolean" | "a boolean" => FLAG,
        "a map" => SECTION,
        "a sequence" => LIST,
        other if other.starts_with("struct ") => SECTION,
        other => other,
    }
}

fn found(actual: &Actual) -> String {
    match actual {
        Actual::Bool(b) => b.to_string(),
        Actual::Unsigned(n) => n.to_string(),
        Actual::Signed(n) => n.to_string(),
        Actual::Float(n) => n.to_string(),
        Actual::Str(_) | Actual::Char(_) | Actual::Bytes(_) => TEXT.into(),
        Actual::Seq => LIST.into(),
        Actual::Map => SECTION.into(),
        other => other.to_string(),
    }
}
