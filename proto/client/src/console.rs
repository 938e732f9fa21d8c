//! The program's own stdout and stderr. Text from outside cannot act on a terminal. A reader that
//! goes away causes no panic: writing to stdout gives an error that ends the command, and text that
//! stderr does not take is dropped.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write as _};

/// Whether `c` would do something to a terminal, or to the order of the text around it, instead of
/// being seen.
fn acts(c: char) -> bool {
    let changes_order = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{206f}');
    // Joiners and selectors make letters and pictures what they are; these make nothing that is seen,
    // and a name with one looks like the name without.
    let hides = matches!(c, '\u{ad}' | '\u{180e}' | '\u{200b}' | '\u{2060}'..='\u{2064}' | '\u{feff}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0001}');
    c.is_control()
        || changes_order
        || hides
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{fff9}'..='\u{fffb}')
}

/// The same for text of several lines, where line breaks and tabs are as meant.
fn acts_in_block(c: char) -> bool {
    acts(c) && !matches!(c, '\n' | '\t')
}

/// `text` for one line: a run of line breaks and tabs with the spaces around it becomes one space,
/// other characters that act are shown escaped.
pub fn line(text: &str) -> Cow<'_, str> {
    if text.contains(breaks) {
        let words: Vec<&str> = text
            .split(breaks)
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .collect();
        return Cow::Owned(
            escaped(&words.join(" "), acts, |out, c| {
                out.extend(c.escape_unicode())
            })
            .into_owned(),
        );
    }
    escaped(text, acts, |out, c| out.extend(c.escape_unicode()))
}

/// Whether `c` is a space that is more than one on a terminal.
fn breaks(c: char) -> bool {
    matches!(
        c,
        '\n' | '\r' | '\t' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

/// `text` of several lines: characters that act are shown escaped, but line breaks and tabs stay.
pub fn block(text: &str) -> Cow<'_, str> {
    escaped(text, acts_in_block, |out, c| match c {
        '\r' => out.push_str("\\r"),
        c => out.extend(c.escape_unicode()),
    })
}

/// JSON text whose strings hold no character that acts: each is written as `\uXXXX`, which stands
/// for the same value.
pub fn json(text: &str) -> Cow<'_, str> {
    escaped(text, acts_in_block, |out, c| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    })
}

/// The name of a number that JSON cannot write, the same in the output of every program.
pub fn not_finite(x: f64) -> Option<&'static str> {
    match x {
        x if x.is_nan() => Some("NaN"),
        f64::INFINITY => Some("Infinity"),
        f64::NEG_INFINITY => Some("-Infinity"),
        _ => None,
    }
}

fn escaped(
    text: &str,
    acts: impl Fn(char) -> bool,
    escape: impl Fn(&mut String, char),
) -> Cow<'_, str> {
    if !text.contains(&acts) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if acts(c) {
            escape(&mut out, c)
        } else {
            out.push(c)
        }
    }
    Cow::Owned(out)
}

/// Writes `text` to stdout as it is.
///
/// # Errors
/// `BrokenPipe` where the reader is gone; else what the system says, such as that a disk is full.
pub fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// Writes a line to stderr.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a terminal acts on: escape sequences in both spellings, returns, bells, changes of
    /// direction, line ends.
    const HOSTILE: [&str; 11] = [
        "\x1b[2J",
        "\u{9b}31m",
        "a\rb",
        "\x07",
        "\u{202e}gpj.exe",
        "a\nb",
        "\u{2066}x\u{2069}",
        "x\u{7f}y",
        "\u{2028}",
        "adm\u{200b}in",
        "\u{feff}x",
    ];

    #[test]
    fn nothing_that_acts_stays_in_a_line_and_nothing_else_is_changed() {
        for text in HOSTILE {
            let shown = line(text);
            assert!(!shown.chars().any(acts), "{text:?} became {shown:?}");
        }
        assert_eq!(line("a\tb\nc\rd\x1b[0m"), "a b c d\\u{1b}[0m");
        assert_eq!(
            line("cannot be used:\r\n  help: none\n\n"),
            "cannot be used: help: none"
        );
        for text in ["", "chat-8b", "Größe 日本語 עברית 👩‍💻 \\n"] {
            assert_eq!(line(text), text);
            assert_eq!(block(text), text);
        }
        assert_eq!(block("a\n\tb\r\x1b[0m"), "a\n\tb\\r\\u{1b}[0m");
    }

    #[test]
    fn json_without_characters_that_act_stands_for_the_same_values() {
        assert_eq!(
            json("{\"a\": \"\u{9b}31m\u{202e}é\"}\n"),
            "{\"a\": \"\\u009b31m\\u202eé\"}\n"
        );
    }
}
