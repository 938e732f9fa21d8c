//! Puts another text in the place of one value of a file, and leaves the rest of it as a person
//! wrote it.

use crate::layer::path_of;
use crate::locate::locate;

/// `yaml` with `value` behind `key`, where that stands with its value on one line; none for an
/// alias, an anchor or a value of several lines. What comes out is to be read again by the caller,
/// who knows what it must say.
pub fn rewritten(yaml: &str, key: &str, value: &str) -> Option<String> {
    let (line, column) = locate(yaml, &path_of(key))?;
    let line_start = nth_line(yaml, usize::try_from(line).ok()?.checked_sub(1)?)?;
    let line = yaml[line_start..].split(['\n', '\r']).next()?;
    let key_start = line
        .char_indices()
        .nth(usize::try_from(column).ok()?.checked_sub(1)?)?
        .0;
    let rest = &line[key_start..];
    // The key may stand in quotes, its name holds no colon.
    let colon = rest.find(':')? + 1;
    let start = key_start + colon + (rest[colon..].len() - rest[colon..].trim_start().len());
    let length = scalar(&line[start..])?;
    let (before, after) = (
        &yaml[..line_start + start],
        &yaml[line_start + start + length..],
    );
    Some(format!("{before}{}{after}", quoted(value)))
}

fn nth_line(text: &str, n: usize) -> Option<usize> {
    if n == 0 {
        Some(0)
    } else {
        text.match_indices('\n').nth(n - 1).map(|(at, _)| at + 1)
    }
}

/// Bytes of the plain or quoted value at the beginning of `text`.
fn scalar(text: &str) -> Option<usize> {
    match text.chars().next()? {
        '"' => closing(text, |bytes, at| bytes[at] == b'\\', b'"'),
        '\'' => closing(
            text,
            |bytes, at| bytes[at] == b'\'' && bytes.get(at + 1) == Some(&b'\''),
            b'\'',
        ),
        '&' | '*' | '!' | '|' | '>' | '{' | '[' | '#' => None,
        _ => {
            let end = text
                .find([',', '}', ']'])
                .into_iter()
                .chain(text.find(" #"))
                .min()
                .unwrap_or(text.len());
            Some(text[..end].trim_end().len())
        }
    }
}

/// The end of a quoted text; `skips` says where a character takes the next one with it.
fn closing(text: &str, skips: impl Fn(&[u8], usize) -> bool, quote: u8) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        if skips(bytes, at) {
            at += 2;
        } else if bytes[at] == quote {
            return Some(at + 1);
        } else {
            at += 1;
        }
    }
    None
}

/// In double quotes, as YAML and JSON both read it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "/d/my \"rows\", é.jsonl";

    fn train(yaml: &str) -> Option<String> {
        let value = crate::yaml::read(yaml).ok()?;
        value.find("data.train")?.into_string()
    }

    #[test]
    fn a_value_is_replaced_however_it_is_written_and_nothing_else_is() {
        for (yaml, before) in [
            (
                "data:\n  train: t.jsonl  # mine\n  eval: e.jsonl\n",
                "t.jsonl",
            ),
            ("data: {train: t.jsonl, eval: e.jsonl}\n", "t.jsonl"),
            (
                "data: {eval: e.jsonl, train: 'it''s, t.jsonl'}\n",
                "it's, t.jsonl",
            ),
            (
                "data: {eval: e.jsonl, \"train\": \"a \\\"b\\\" c\"} # x\n",
                "a \"b\" c",
            ),
            (
                "\u{feff}name: é\r\ndata:\r\n  train:   t.jsonl\r\n  eval: e.jsonl\r\n",
                "t.jsonl",
            ),
            (
                "{\"data\": {\"train\": \"t.jsonl\", \"eval\": \"e.jsonl\"}}",
                "t.jsonl",
            ),
        ] {
            assert_eq!(train(yaml).as_deref(), Some(before), "{yaml}");
            let made = rewritten(yaml, "data.train", WHOLE).unwrap_or_else(|| panic!("{yaml}"));
            assert_eq!(train(&made).as_deref(), Some(WHOLE), "{made}");
            assert!(
                made.contains("e.jsonl") && made.contains('#') == yaml.contains('#'),
                "{made}"
            );
            let back = rewritten(&made, "data.train", before).expect("a value in quotes");
            assert_eq!(train(&back).as_deref(), Some(before), "{back}");
        }
    }

    #[test]
    fn what_is_not_written_on_one_line_is_left_to_the_person() {
        for yaml in [
            "data:\n  train: &t t.jsonl\n",
            "name: &n t.jsonl\ndata:\n  train: *n\n",
            "data:\n  train: >\n    t.jsonl\n",
            "data:\n  train:\n    t.jsonl\n",
            "data:\n  eval: e.jsonl\n",
        ] {
            let made = rewritten(yaml, "data.train", WHOLE);
            assert!(
                made.is_none_or(|made| train(&made).as_deref() != Some(WHOLE)),
                "{yaml}"
            );
        }
    }
}
