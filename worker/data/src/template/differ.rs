//! Where two rendered texts differ. A token in angle or square brackets, such as `<|im_end|>` or
//! `[/INST]`, is compared as one: two of them that begin alike have nothing in common.

use std::ops::Range;

/// Characters that a token in brackets may have.
const LONGEST: usize = 64;

/// Bytes of the character or bracketed token that `text` begins with.
fn atom(text: &str) -> usize {
    let one = text.chars().next().map_or(0, char::len_utf8);
    bracketed(text).unwrap_or(one)
}

/// Bytes of the token in brackets that `text` begins with.
pub(super) fn bracketed(text: &str) -> Option<usize> {
    let (close, fits): (char, fn(char) -> bool) = match text.chars().next()? {
        '<' => ('>', |c| !c.is_whitespace() && c != '<'),
        '[' => (']', |c| c.is_ascii_uppercase() || c == '_' || c == '/'),
        _ => return None,
    };
    for (at, c) in text.char_indices().skip(1).take(LONGEST) {
        match c {
            c if c == close => return (at > 1).then_some(at + 1),
            c if !fits(c) => return None,
            _ => {}
        }
    }
    None
}

fn atoms(text: &str) -> Vec<&str> {
    let (mut parts, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let (part, after) = rest.split_at(atom(rest));
        parts.push(part);
        rest = after;
    }
    parts
}

/// Bytes that both texts begin with.
pub(super) fn common_prefix(a: &str, b: &str) -> usize {
    let mut at = 0;
    while at < a.len() {
        let length = atom(&a[at..]);
        if !b[at..].starts_with(&a[at..at + length]) || atom(&b[at..]) != length {
            break;
        }
        at += length;
    }
    at
}

/// The part of `text` that `other` has differently.
pub(super) fn differing(text: &str, other: &str) -> Range<usize> {
    let start = common_prefix(text, other);
    let (own, others) = (atoms(&text[start..]), atoms(&other[start..]));
    let equal = own
        .iter()
        .rev()
        .zip(others.iter().rev())
        .take_while(|(a, b)| a == b);
    let suffix: usize = equal.map(|(atom, _)| atom.len()).sum();
    start..text.len() - suffix
}

/// The last token in brackets of `text`, where it ends with one.
pub(super) fn last_token(text: &str) -> Option<&str> {
    let starts = text
        .char_indices()
        .rev()
        .filter(|(_, c)| matches!(c, '<' | '['));
    starts
        .map(|(at, _)| &text[at..])
        .find(|end| bracketed(end) == Some(end.len()))
}

/// The tokens in brackets of `text` and what stands between them; whether a piece is a token.
pub(super) fn pieces(text: &str) -> Vec<(&str, bool)> {
    let (mut pieces, mut start, mut at) = (Vec::new(), 0, 0);
    while let Some(found) = text[at..].find(['<', '[']) {
        at += found;
        match bracketed(&text[at..]) {
            Some(length) => {
                pieces.extend([(&text[start..at], false), (&text[at..at + length], true)]);
                at += length;
                start = at;
            }
            None => at += 1,
        }
    }
    pieces.push((&text[start..], false));
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_ends_where_the_texts_agree_again() {
        assert_eq!(differing("ab[x]cd", "ab[yy]cd"), 3..4);
        assert_eq!(differing("ab[]cd", "ab[yy]cd"), 3..3);
        assert_eq!(differing("aaa", "aa"), 2..3);
        assert_eq!(differing("é1ü", "é2ü"), 2..3);
    }

    #[test]
    fn tokens_in_brackets_are_never_taken_apart() {
        assert_eq!(
            common_prefix("a<|end|>\n<|user|>", "a<|end|>\n<|assistant|>"),
            9
        );
        assert_eq!(differing("x<|a|>y", "x<|b|>y"), 1..6);
        assert_eq!(
            differing(
                "q<\u{ff5c}end\u{2581}of\u{ff5c}>",
                "q\u{F0003}<\u{ff5c}end\u{2581}of\u{ff5c}>"
            ),
            1..1
        );
        assert_eq!(common_prefix("[/INST]", "[/INSTX]"), 0);
        assert_eq!(common_prefix("1 < 2 > 0", "1 < 3 > 0"), 4);
    }
}
