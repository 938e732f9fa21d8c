//! Reads YAML, and explains in plain words what is wrong with it.
//!
//! Values are read as YAML 1.2 with those habits of YAML 1.1 that have only one meaning: `yes` and
//! `on` are true, `1e-4` is a number, `1_000` is 1000, `<<` merges. A value with two meanings, such
//! as `017`, stays text, and a key that wants a number refuses it.

use figment::value::Value;
use serde::de::DeserializeOwned;
use serde_saphyr::{DuplicateKeyPolicy, Error, NonFiniteFloatPolicy, Options};

/// Why a text is not YAML that can be read.
pub(crate) struct Syntax {
    pub message: String,
    /// Line and column, from 1.
    pub at: Option<(u64, u64)>,
    pub help: String,
}

fn options(duplicate_keys: DuplicateKeyPolicy) -> Options {
    serde_saphyr::options! {
        with_snippet: false,
        duplicate_keys: duplicate_keys,
        leading_zero_numbers_as_strings: true,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        reject_unsupported_tags: true,
    }
}

/// The text as values.
pub(crate) fn read(text: &str) -> Result<Value, Syntax> {
    serde_saphyr::from_str_with_options(text, options(DuplicateKeyPolicy::Error))
        .map_err(|e| explain(text, &e))
}

/// The text as `T`, in which a key that is given twice stands twice.
pub(crate) fn read_with_repeated<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_saphyr::from_str_with_options(text, options(DuplicateKeyPolicy::PassThrough)).ok()
}

fn explain(text: &str, error: &Error) -> Syntax {
    let error = error.without_snippet();
    let at = error
        .location()
        .map(|place| (place.line(), place.column()))
        .filter(|(line, _)| *line > 0);
    let found = error.to_string();
    let tab = found
        .contains("tab")
        .then(|| indented_by_tab(text, at))
        .flatten();
    let found = found
        .split(" at line ")
        .next()
        .unwrap_or_default()
        .to_owned();
    let (message, help) = match error {
        Error::MultipleDocuments { .. } => (
            "a second document starts here".to_owned(),
            "a file holds one configuration; move what follows `---` to a file of its own".to_owned(),
        ),
        Error::UnknownAnchor { .. } => (
            "an alias names an anchor that nothing above it has".to_owned(),
            "text that starts with `*` or `&` is written in quotes".to_owned(),
        ),
        Error::UnsupportedTag { .. } => (
            format!("{found}; no tag but those of YAML itself means anything here"),
            "remove the tag, or write text that starts with `!` in quotes".to_owned(),
        ),
        _ if tab.is_some() => {
            ("a tab indents this line".to_owned(), "YAML takes spaces only; replace the tab by spaces".to_owned())
        }
        _ if ["flow mapping", "flow sequence", "bracket"].iter().any(|words| found.contains(words)) => (
            found,
            "here or above it a `{` or `[` is not closed, or a comma between two entries is missing".to_owned(),
        ),
        _ if found.contains("escape") => (
            found,
            "in double quotes a backslash starts an escape; write a Windows path in single quotes or with forward slashes"
                .to_owned(),
        ),
        _ => (found, "a key and its value are written `key: value`, with the same indent in one section".to_owned()),
    };
    Syntax {
        message,
        at: tab.or(at),
        help,
    }
}

/// The line that a tab indents, and the tab's column: the parser's line, or the next one, which it
/// was reading on into.
fn indented_by_tab(text: &str, at: Option<(u64, u64)>) -> Option<(u64, u64)> {
    let (line, _) = at?;
    let lines = text
        .lines()
        .zip(1..)
        .skip_while(|(_, number)| *number < line)
        .take(2);
    let tab = |text: &str| text[..text.len() - text.trim_start().len()].find('\t');
    lines
        .filter_map(|(text, number)| Some((number, tab(text)? as u64 + 1)))
        .next()
}

/// The plain value that stands behind the key at line and column, from 1, as it is written there.
pub(crate) fn written(text: &str, at: (u64, u64)) -> Option<&str> {
    let line = text
        .lines()
        .nth(usize::try_from(at.0).ok()?.checked_sub(1)?)?;
    let start = line
        .char_indices()
        .nth(usize::try_from(at.1).ok()?.checked_sub(1)?)?
        .0;
    let value = line[start..].split_once(':')?.1.trim_start();
    let end = value
        .find([',', '}', ']'])
        .into_iter()
        .chain(value.find(" #"))
        .min()
        .unwrap_or(value.len());
    let value = value[..end].trim_end();
    (!value.is_empty() && !value.starts_with(['"', '\'', '{', '[', '|', '>', '&', '*']))
        .then_some(value)
}
