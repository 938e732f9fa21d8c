//! The ways in which templates write a text of a message: as it is, trimmed, as JSON, as Python
//! prints it, with entities.

use minijinja::Value as Printed;
use minijinja::value::Serde;
use serde_json::Value;

use super::repr::quoted;

/// Whether `text` holds `part` in one of its [`forms`].
pub(super) fn is_held_in(text: &str, part: &str) -> bool {
    let part = part.trim();
    text.contains(part) || forms(part).iter().any(|form| text.contains(form.as_str()))
}

/// How templates write `text`.
pub(super) fn forms(text: &str) -> Vec<String> {
    let plain = inner(&Value::from(text).to_string());
    let ascii: String = plain.chars().map(ascii_json).collect();
    // Arguments that are JSON text stand in JSON again.
    let twice = inner(&Value::from(plain.as_str()).to_string());
    let html = entities(text, "&#34;", "&#39;");
    let xml = entities(text, "&quot;", "&#x27;");
    let apos = entities(text, "&quot;", "&apos;");
    let bare = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let lines = text.replace("\r\n", "\n");
    let [quotes, slashes, ends] = single_quoted(text);
    vec![
        plain,
        ascii,
        twice,
        inner(&quoted(text)),
        html,
        xml,
        apos,
        bare,
        lines,
        quotes,
        slashes,
        ends,
    ]
}

/// `text` as templates write it between `'` and `'`, where Python would take `"` for a text with an
/// apostrophe: they escape the apostrophe, some the backslash too, and some line ends as well.
fn single_quoted(text: &str) -> [String; 3] {
    let quotes = text.replace('\'', r"\'");
    let slashes = text.replace('\\', r"\\").replace('\'', r"\'");
    let ends = slashes.replace('\n', r"\n").replace('\r', r"\r");
    [quotes, slashes, ends]
}

/// `text` without the quotation marks around it.
fn inner(text: &str) -> String {
    let mut chars = text.chars();
    chars.next();
    chars.next_back();
    chars.as_str().to_owned()
}

fn ascii_json(c: char) -> String {
    if c.is_ascii() {
        return c.into();
    }
    c.encode_utf16(&mut [0; 2])
        .iter()
        .map(|unit| format!("\\u{unit:04x}"))
        .collect()
}

fn entities(text: &str, double: &str, single: &str) -> String {
    let text = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    text.replace('"', double).replace('\'', single)
}

/// How templates write a number, a boolean or nothing.
pub(super) fn scalar_forms(value: &Value) -> Vec<String> {
    match value {
        Value::Null => ["null", "None", "none", "nil"].map(str::to_owned).to_vec(),
        Value::Bool(true) => ["true", "True"].map(str::to_owned).to_vec(),
        Value::Bool(false) => ["false", "False"].map(str::to_owned).to_vec(),
        other => vec![
            other.to_string(),
            super::repr::text_of(&Printed::from(Serde(other))),
        ],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_text_is_known_in_the_ways_that_templates_write_it() {
        let said = " Ann's \"é\" <b>\n& ";
        for text in [
            "Ann's \"é\" <b>\n&",
            r#"Ann's \"é\" <b>\n&"#,
            r#"Ann's \"\u00e9\" <b>\n&"#,
            r#"Ann's \\\"é\\\" <b>\\n&"#,
            r#"Ann\'s "é" <b>\n&"#,
            "Ann&#39;s &#34;é&#34; &lt;b&gt;\n&amp;",
            "Ann's \"é\" &lt;b&gt;\n&amp;",
            "Ann\\'s \"é\" <b>\n&",
        ] {
            assert!(is_held_in(&format!("({text})"), said), "{text}");
        }
        for text in [
            "ANN'S \"É\" <B>\n&",
            "Ann's \"é\" <b> &",
            "Ann's \"e\" <b>\n&",
            "",
        ] {
            assert!(!is_held_in(text, said), "{text}");
        }
    }

    /// Python quotes these with `"` and leaves the apostrophe as it is.
    #[test]
    fn an_apostrophe_is_known_between_apostrophes() {
        let said = "it's C:\\bin\nso";
        for text in [
            "it\\'s C:\\bin\nso",
            "it\\'s C:\\\\bin\nso",
            r"it\'s C:\\bin\nso",
        ] {
            assert!(is_held_in(&format!("('{text}')"), said), "{text}");
        }
        assert!(!is_held_in(r"('its C:\\bin\nso')", said));
    }

    #[test]
    fn numbers_are_known_as_json_and_as_python_has_them() {
        for (value, forms) in [
            (json!(1.5e-7), &["1.5e-7", "1.5e-07"][..]),
            (json!(3.0), &["3.0"]),
            (json!(true), &["true", "True"]),
            (json!(null), &["null", "None"]),
        ] {
            let known = scalar_forms(&value);
            assert!(
                forms
                    .iter()
                    .all(|form| known.iter().any(|known| known == form)),
                "{known:?}"
            );
        }
    }
}
