//! Messages about values of the wrong type or word.

use figment::error::{Actual, Kind};
use qlora_codes::Code;

use crate::schema::{ALL_LINEAR, TargetModule};

/// A fault in words, with the key it is about.
pub(crate) struct Explained {
    pub path: Vec<String>,
    pub code: Code,
    pub message: String,
    pub help: Option<String>,
}

/// `written` is the value as it stands in the file, where that is known.
pub(crate) fn explain(error: &figment::Error, written: Option<&str>) -> Explained {
    let mut path = error.path.clone();
    if let Kind::MissingField(key) = &error.kind {
        path.push(key.to_string());
    }
    let key = path.join(".");
    let (code, message, help) = match &error.kind {
        Kind::MissingField(_) => (Code::MissingKey, format!("`{key}` is missing"), None),
        Kind::UnknownVariant(value, expected) => (
            Code::UnknownWord,
            format!("`{key}` cannot be `{value}`"),
            Some(word_from(value, expected)),
        ),
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            let (message, help) = wrong(&key, actual, expected, written);
            (Code::WrongType, message, help)
        }
        kind => (Code::WrongType, format!("`{key}`: {kind}"), None),
    };
    Explained {
        path,
        code,
        message,
        help,
    }
}

/// Words that are values of their own where no quotes stand around them.
const TRUTH: [&str; 2] = ["true", "false"];

/// What helps where `value` is none of the words that are expected.
fn word_from(value: &str, expected: &[&str]) -> String {
    let takes = format!("it takes {}", expected.join(", "));
    if TRUTH.iter().any(|word| word.eq_ignore_ascii_case(value)) && expected.contains(&TRUTH[0]) {
        return format!("write {} without quotes", value.to_lowercase());
    }
    if expected.contains(&"cuda") && matches!(&*value.to_lowercase(), "gpu" | "gpus" | "nvidia") {
        return format!("`cuda` is an NVIDIA GPU, `metal` the GPU of a Mac; {takes}");
    }
    let is_list = expected.contains(&ALL_LINEAR);
    let list = is_list.then(|| list_from(value)).flatten();
    match alike(value, expected) {
        Some(word) => format!("did you mean `{word}`? {takes}"),
        None => list.unwrap_or(takes),
    }
}

/// What helps where `value` is text that stands for modules; none where it does not.
fn list_from(value: &str) -> Option<String> {
    let names = TargetModule::ALL.map(TargetModule::name);
    let words = || value.split([',', ' ']).filter(|word| !word.is_empty());
    let meant: Vec<&str> = words()
        .map(|word| alike(word, &names))
        .collect::<Option<_>>()?;
    let list = meant.join(", ");
    if !words().eq(meant.iter().copied()) {
        return (!meant.is_empty()).then(|| format!("did you mean [{list}]?"));
    }
    match meant.len() {
        0 => None,
        1 => Some(format!("one module is a list too: write [{list}]")),
        _ => Some(format!("a list stands in brackets: write [{list}]")),
    }
}

/// The one of `words` that was probably meant.
fn alike<'w>(value: &str, words: &[&'w str]) -> Option<&'w str> {
    let lower = value.to_lowercase().replace(['-', ' '], "_");
    if let Some(word) = words
        .iter()
        .copied()
        .find(|word| word.eq_ignore_ascii_case(&lower))
    {
        return Some(word);
    }
    let is_alike = |word: &&str| {
        word.trim_end_matches("_proj") == lower
            || (lower.len() >= 3 && word.starts_with(&lower))
            || strsim::damerau_levenshtein(&lower, word) <= 1.max(word.len() / 5)
    };
    let alike = words.iter().copied().filter(is_alike);
    alike.min_by_key(|word| strsim::damerau_levenshtein(&lower, word))
}

fn wrong(
    key: &str,
    actual: &Actual,
    expected: &str,
    written: Option<&str>,
) -> (String, Option<String>) {
    let wanted = wanted(expected);
    let help = match (actual, wanted) {
        (Actual::Unit, SECTION) => {
            return (
                format!("`{key}:` is empty"),
                Some("give it keys, or remove the line".into()),
            );
        }
        (Actual::Unit, _) => {
            return (
                format!("`{key}` is empty"),
                Some("give it a value, or remove the line".into()),
            );
        }
        (Actual::Str(text), NUMBER | WHOLE) => Some(number_from(text.trim())),
        (Actual::Str(text), FLAG) if ["yes", "on", "y"].contains(&text.to_lowercase().as_str()) => {
            Some("write true".into())
        }
        (Actual::Str(text), FLAG) if ["no", "off", "n"].contains(&text.to_lowercase().as_str()) => {
            Some("write false".into())
        }
        (Actual::Unsigned(_) | Actual::Signed(_) | Actual::Float(_) | Actual::Bool(_), TEXT) => {
            let text = written.map_or_else(|| found(actual), str::to_owned);
            return (
                format!("`{key}` must be text, not {text}"),
                Some(format!("write it in quotes: \"{text}\"")),
            );
        }
        (Actual::Signed(n), WHOLE) if *n < 0 => {
            return (
                format!("`{key}` is {n}, below 0"),
                Some("it takes a whole number from 0 on".into()),
            );
        }
        (Actual::Unsigned(n), WHOLE) => return too_large(key, &n.to_string(), expected),
        (Actual::Float(n), WHOLE) if *n >= 2f64.powi(53) => {
            return too_large(key, &format!("about {n:e}"), expected);
        }
        (Actual::Float(n), WHOLE) if n.fract() == 0.0 => {
            Some(format!("write {n}, without a point or an exponent"))
        }
        _ => None,
    };
    // A number as it stands there: 8.0 is not 8 to the one who wrote it.
    let found = written
        .filter(|_| matches!(actual, Actual::Float(_)))
        .map_or_else(|| found(actual), str::to_owned);
    (format!("`{key}` must be {wanted}, not {found}"), help)
}

fn too_large(key: &str, found: &str, expected: &str) -> (String, Option<String>) {
    let most = if matches!(expected, "u8" | "u16" | "u32") {
        u64::from(u32::MAX)
    } else {
        u64::MAX
    };
    (
        format!("`{key}` is {found}, more than it can be"),
        Some(format!("it takes a whole number up to {most}")),
    )
}

/// What helps where `text` stands in the place of a number.
fn number_from(text: &str) -> String {
    let digits = text.trim_start_matches(['+', '-']);
    let with_point = text.replacen(',', ".", 1);
    match text.parse::<f64>() {
        Ok(n) if !n.is_finite() => "infinity and NaN are no values here".into(),
        _ if digits.trim_start_matches('.').to_lowercase() == "inf"
            || digits.to_lowercase() == ".nan" =>
        {
            "infinity and NaN are no values here, and no number of more than 308 digits".into()
        }
        Ok(_)
            if digits.starts_with('0')
                && digits.len() > 1
                && digits.bytes().all(|b| b.is_ascii_digit()) =>
        {
            let plain = digits.trim_start_matches('0');
            let plain = if plain.is_empty() { "0" } else { plain };
            format!(
                "`{text}` could be decimal or octal; write {plain}, or 0o{plain} for an octal number"
            )
        }
        Ok(_) => format!("write {text} without quotes"),
        Err(_) if text.matches(',').count() == 1 && with_point.parse::<f64>().is_ok() => {
            format!("write {with_point}, with a point")
        }
        Err(_) if text.chars().count() <= 60 => {
            format!("`{text}` is no number; write digits, such as 100 or 2e-4")
        }
        Err(_) => "write digits, such as 100 or 2e-4".into(),
    }
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
