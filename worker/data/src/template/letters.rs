//! Which characters of a rendered text change with a message.
//!
//! The message is rendered again with each letter and digit of its texts replaced by another one of
//! as many bytes. If the rendering keeps its shape, the characters that differ belong to the
//! message, even if the template takes a text apart, cuts it or counts with it. Punctuation marks
//! are changed separately, because templates look for them.

use std::ops::Range;

use serde_json::{Number, Value};

use super::differ::pieces;
use super::fields::{Change, Depth};

/// `message` with other letters and digits.
pub(super) fn with_other_letters(message: &mut Value, depth: Depth) {
    Change {
        text: &other_letters,
        number: &other_digits,
    }
    .message(message, depth);
}

/// The same for what a tool says in words.
pub(super) fn tool_with_other_letters(tool: &mut Value) {
    Change {
        text: &other_letters,
        number: &other_digits,
    }
    .descriptions(tool);
}

/// `message` with other punctuation marks, `escaped` those too that JSON and HTML escape.
pub(super) fn with_other_signs(message: &mut Value, depth: Depth, escaped: bool) {
    Change {
        text: &|text| mapped(text, |c| other_sign(c, escaped)),
        number: &Clone::clone,
    }
    .message(message, depth);
}

/// The same for what a tool says in words.
pub(super) fn tool_with_other_signs(tool: &mut Value, escaped: bool) {
    Change {
        text: &|text| mapped(text, |c| other_sign(c, escaped)),
        number: &Clone::clone,
    }
    .descriptions(tool);
}

/// `text` with other letters and digits.
fn other_letters(text: &str) -> String {
    mapped(text, other_letter)
}

/// `text` with other characters; its tokens in brackets stay, since templates look for them.
fn mapped(text: &str, other: impl Fn(char) -> char) -> String {
    let changed = |(piece, is_token): (&str, bool)| -> String {
        if is_token {
            piece.to_owned()
        } else {
            piece.chars().map(&other).collect()
        }
    };
    pieces(text).into_iter().map(changed).collect()
}

/// Another mark that is escaped to as many characters.
fn other_sign(c: char, escaped: bool) -> char {
    const PLAIN: [char; 26] = [
        '!', '#', '$', '%', '(', ')', '*', '+', ',', '-', '.', '/', ':', ';', '=', '?', '@', '[',
        ']', '^', '_', '`', '{', '|', '}', '~',
    ];
    if let Some(at) = PLAIN.iter().position(|plain| *plain == c) {
        return PLAIN[(at + 1) % PLAIN.len()];
    }
    match c {
        '"' if escaped => '\\',
        '\\' if escaped => '"',
        '&' if escaped => '\'',
        '\'' if escaped => '&',
        '<' if escaped => '>',
        '>' if escaped => '<',
        c => c,
    }
}

/// A number that is written with as many characters.
fn other_digits(number: &Number) -> Number {
    let written = number.to_string();
    let digit = |c: char| {
        if c.is_ascii_digit() {
            other_letter(c)
        } else {
            c
        }
    };
    let other: Option<Number> = written.chars().map(digit).collect::<String>().parse().ok();
    other
        .filter(|other| other.to_string().len() == written.len())
        .unwrap_or_else(|| number.clone())
}

fn other_letter(c: char) -> char {
    match c {
        'a'..='y' | 'A'..='Y' | '1'..='8' | '0' => next(c).unwrap_or(c),
        'z' => 'a',
        'Z' => 'A',
        // Not 0, which does not begin a number.
        '9' => '1',
        c if c.is_ascii() || c.is_whitespace() || c.is_control() => c,
        c => {
            let alike = |other: &char| {
                other.len_utf8() == c.len_utf8()
                    && other.is_alphabetic() == c.is_alphabetic()
                    && other.is_numeric() == c.is_numeric()
                    && other.is_lowercase() == c.is_lowercase()
                    && !other.is_whitespace()
                    && !other.is_control()
            };
            let before = u32::from(c).checked_sub(1).and_then(char::from_u32);
            next(c)
                .filter(alike)
                .or_else(|| before.filter(alike))
                .unwrap_or(c)
        }
    }
}

fn next(c: char) -> Option<char> {
    char::from_u32(u32::from(c) + 1)
}

/// Where `other` has another character than `whole`; none where the two are not alike in shape.
pub(super) fn changed(whole: &str, other: &str) -> Option<Vec<Range<usize>>> {
    if whole.len() != other.len() {
        return None;
    }
    let mut found: Vec<Range<usize>> = Vec::new();
    for ((at, own), (place, others)) in whole.char_indices().zip(other.char_indices()) {
        if at != place || own.len_utf8() != others.len_utf8() {
            return None;
        }
        if own == others {
            continue;
        }
        let end = at + own.len_utf8();
        match found.last_mut().filter(|last| last.end == at) {
            Some(last) => last.end = end,
            None => found.push(at..end),
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_letter_and_digit_becomes_another_of_its_kind() {
        for text in [
            "Zebra 0190 zZ",
            "Zürich, 12 °C",
            "日本語 ПРИВЕТ",
            "\u{1F44D}",
        ] {
            let other = other_letters(text);
            assert_eq!(other.len(), text.len(), "{text}");
            for (a, b) in text
                .chars()
                .zip(other.chars())
                .filter(|(a, _)| a.is_alphanumeric())
            {
                assert!(
                    a != b
                        && a.is_uppercase() == b.is_uppercase()
                        && a.is_numeric() == b.is_numeric(),
                    "{a} {b}"
                );
            }
        }
        assert_eq!(other_letters("a<think>b [TOOL] c"), "b<think>c [TOOL] d");
    }

    #[test]
    fn every_mark_becomes_another_one() {
        let marks = || ('!'..='~').filter(char::is_ascii_punctuation);
        assert!(marks().all(|mark| other_sign(mark, true) != mark));
        let kept: String = marks()
            .filter(|mark| other_sign(*mark, false) == *mark)
            .collect();
        assert_eq!(kept, "\"&'<>\\");
        assert_eq!(mapped("a<think>b.", |c| other_sign(c, true)), "a<think>b/");
    }

    #[test]
    fn numbers_stay_numbers_of_as_many_digits() {
        for number in ["0", "9", "-10", "1.5", "2.5e-9", "18446744073709551615"] {
            let number: Number = number.parse().expect("a number");
            assert_eq!(
                other_digits(&number).to_string().len(),
                number.to_string().len(),
                "{number}"
            );
        }
        assert_ne!(other_digits(&Number::from(3)), Number::from(3));
    }

    #[test]
    fn changes_are_told_where_the_shape_is_the_same() {
        let edges = |whole, other| {
            let found = changed(whole, other)?;
            Some(
                found
                    .iter()
                    .map(|range| (range.start, range.end))
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(edges("ab cd", "ab de"), Some(vec![(3, 5)]));
        assert_eq!(edges("é1é a", "é2é b"), Some(vec![(2, 3), (6, 7)]));
        assert_eq!(edges("abc", "abcd"), None);
        assert_eq!(edges("éa", "aé"), None);
    }
}
