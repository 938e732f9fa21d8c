//! Python's `%` between a text and what is put into it. minijinja knows `%` as the remainder only
//! and gives no way to change that, so a quoted text before `%` becomes a filter of the operand
//! behind it.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

use super::repr::text_of;
use super::walk::Walk;
use super::widths;

/// Filter that puts values into a text.
pub(super) const FORMAT: &str = "_printf";

/// `text % value` as Python has it: a tuple holds several values.
pub(super) fn printf(text: &str, value: Value) -> Result<String, Error> {
    widths::check_printf(text, "`%`")?;
    let values: Vec<Value> = if value.is_tuple() {
        value.try_iter()?.collect()
    } else {
        vec![value]
    };
    let mapped = values.len() == 1 && values[0].kind() == ValueKind::Map;
    if !mapped && places(text) < values.len() {
        return Err(Error::new(
            ErrorKind::TooManyArguments,
            "not all values were put into the text",
        ));
    }
    let printed = |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::Map).then(|| text_of(value).into())
    };
    let values: Vec<Value> = if mapped && text.contains("%(") {
        values
    } else {
        values
            .into_iter()
            .map(|value| printed(&value).unwrap_or(value))
            .collect()
    };
    format(FormatStyle::Printf, text, &values)
}

/// How many values `text` has places for.
fn places(text: &str) -> usize {
    text.replace("%%", "").matches('%').count()
}

/// `expression` with each `'text' % value` as `'text' | _printf(value)`.
pub(super) fn rewrite(expression: &str) -> String {
    nested(expression, 0)
}

/// [`rewrite`] of what stands in `depth` values already. minijinja refuses what is nested deeper
/// than 150.
fn nested(expression: &str, depth: usize) -> String {
    if depth > 200 {
        return expression.to_owned();
    }
    let mut out = String::with_capacity(expression.len());
    let mut rest = expression;
    while let Some((literal, percent)) = next(rest) {
        let behind = &rest[percent + 1..];
        let length = operand(behind);
        out.push_str(&rest[..literal]);
        out.push_str(&format!(
            " | {FORMAT}(({}))",
            nested(behind[..length].trim(), depth + 1)
        ));
        rest = &behind[length..];
    }
    out + rest
}

/// Where the next text in quotation marks that has a `%` behind it ends, and where that stands.
fn next(text: &str) -> Option<(usize, usize)> {
    let mut walk = Walk::default();
    for (at, c) in text.char_indices() {
        let quoted = walk.quoted();
        walk.step(c);
        if quoted && !walk.quoted() {
            let end = at + c.len_utf8();
            let behind = text[end..].trim_start();
            // The end of a tag has a bracket behind it.
            if behind.starts_with('%') && !behind.starts_with("%}") {
                return Some((end, text.len() - behind.len()));
            }
        }
    }
    None
}

/// Bytes of the value that `text` begins with: a name, number, text or bracket, and what is
/// fetched, called or filtered.
fn operand(text: &str) -> usize {
    let mut at = text.len() - text.trim_start().len();
    at += text[at..].len() - text[at..].trim_start_matches(['-', '+']).len();
    at += term(&text[at..]);
    loop {
        let space = text[at..].len() - text[at..].trim_start().len();
        let behind = &text[at + space..];
        let more = match behind.chars().next() {
            Some('(' | '[') => term(behind),
            Some('.') => 1 + term(&behind[1..]),
            Some('|') => {
                let inner = 1 + (behind[1..].len() - behind[1..].trim_start().len());
                inner + term(&behind[inner..])
            }
            _ => return at,
        };
        at += space + more;
    }
}

/// Bytes of one word, number, text in quotation marks or bracket.
fn term(text: &str) -> usize {
    let mut walk = Walk::default();
    for (at, c) in text.char_indices() {
        let opened = walk.quoted() || walk.depth() > 0;
        let ends = !c.is_alphanumeric()
            && c != '_'
            && !(c == '.' && text.starts_with(|c: char| c.is_ascii_digit()));
        if !opened && ends && (at > 0 || !matches!(c, '(' | '[' | '{' | '"' | '\'')) {
            return at;
        }
        walk.step(c);
        if opened && !walk.quoted() && walk.depth() == 0 {
            return at + c.len_utf8();
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_filled_and_remainders_stay() {
        for (source, wanted) in [
            (" 5 % 3 ", " 5 % 3 "),
            (" '%s' % x ", " '%s' | _printf((x)) "),
            (
                " '%s' % x.y[0](1) | upper ~ 'a' ",
                " '%s' | _printf((x.y[0](1) | upper)) ~ 'a' ",
            ),
            (
                " '%s-%d' % ('a', 1) if x else \"b\" ",
                " '%s-%d' | _printf((('a', 1))) if x else \"b\" ",
            ),
            (" f('%s' % 1.5) ", " f('%s' | _printf((1.5))) "),
            (" '%s' % '%d' % 3 ", " '%s' | _printf(('%d')) % 3 "),
            (" 'a % b' ", " 'a % b' "),
            (" if x == 'a' ", " if x == 'a' "),
        ] {
            assert_eq!(rewrite(source), wanted);
        }
        let deep = "'%s' % (".repeat(3_000) + &")".repeat(3_000);
        assert!(rewrite(&deep).len() < 4 * deep.len());
    }
}
