//! Changes to the text of a template before it is compiled: `{% generation %}`, which is no tag of
//! minijinja, becomes a filter block; what a `for` loop goes through passes a filter that refuses
//! none, as Python does; a sum in which a text is marked as `safe` becomes a filter that escapes
//! the other texts, as Python does. Comparisons, `%` and uncalled methods become filters too.

use std::borrow::Cow;

use super::walk::{Walk, split, word};
use super::{compare, methods, printf};

/// Filter of the blocks that the assistant writes.
pub(super) const GENERATION: &str = "_generation";
/// Filter of what loops go through.
pub(super) const ITERABLE: &str = "_iterable";

/// Filter of sums in which a text is marked as safe.
pub(super) const SUM: &str = "_markup_sum";

/// The template as minijinja takes it, and whether it marks what the assistant writes.
pub(super) fn rewrite(source: &str) -> (String, bool) {
    let (mut out, mut rest, mut marks) = (String::with_capacity(source.len()), source, false);
    let mut raw = false;
    while let Some((kind, start)) = next_tag(rest) {
        let Some(end) = tag_end(&rest[start..], kind).map(|end| start + end) else {
            break;
        };
        let inner = &rest[start + 2..end - 2];
        let is_code = kind != '#' && !raw;
        let is_block = kind == '%';
        let filled = match is_code {
            true => compare::rewrite(
                &printf::rewrite(&methods::rewrite(&continued(inner), is_block)),
                is_block,
            ),
            false => inner.to_owned(),
        };
        let inner = filled.as_str();
        let name = inner.trim_matches(['-', '+']).trim();
        out.push_str(&rest[..start]);
        match name {
            "raw" if kind == '%' => raw = true,
            "endraw" if kind == '%' => raw = false,
            _ => {}
        }
        match name {
            _ if kind == '{' && !raw => out.push_str(&format!(
                "{{{{{}}}}}",
                safe_sum(inner).unwrap_or_else(|| inner.to_owned())
            )),
            "raw" if kind == '%' => {
                out.push_str(&rest[start..end]);
                // Python keeps the line feed behind this tag alone.
                let keeps = !inner.ends_with('-') && rest[end..].starts_with('\n');
                out.extend(keeps.then_some('\n'));
            }
            _ if kind != '%' || raw => out.push_str(&rest[start..end]),
            "generation" => {
                marks = true;
                out.push_str(&format!(
                    "{{%{}%}}",
                    inner.replace("generation", &format!("filter {GENERATION}"))
                ));
            }
            "endgeneration" => out.push_str(&format!(
                "{{%{}%}}",
                inner.replace("endgeneration", "endfilter")
            )),
            _ => out.push_str(&format!(
                "{{%{}%}}",
                for_loop(inner).unwrap_or_else(|| inner.to_owned())
            )),
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
    (out, marks)
}

/// `tag` with each text that a backslash continues on the next line as one, as Python reads it. The
/// line feeds stand before the tag instead, so that faults behind it keep their lines.
fn continued(tag: &str) -> Cow<'_, str> {
    if !tag.contains("\\\n") && !tag.contains("\\\r") {
        return tag.into();
    }
    let (mut out, mut lines, mut walk) = (String::with_capacity(tag.len()), 0, Walk::default());
    let mut chars = tag.chars().peekable();
    while let Some(c) = chars.next() {
        let escaped = match c {
            '\\' if walk.quoted() => chars.next(),
            _ => None,
        };
        match escaped {
            Some('\n') => lines += 1,
            Some('\r') => lines += usize::from(chars.next_if_eq(&'\n').is_some()),
            _ => {
                for c in std::iter::once(c).chain(escaped) {
                    walk.step(c);
                    out.push(c);
                }
            }
        }
    }
    let body = out.trim_start_matches(['-', '+']);
    let sign = &out[..out.len() - body.len()];
    format!("{sign}{}{body}", "\n".repeat(lines)).into()
}

/// The next `{%`, `{{` or `{#`, and where it stands.
fn next_tag(text: &str) -> Option<(char, usize)> {
    text.match_indices('{').find_map(|(at, _)| {
        let kind = text[at + 1..].chars().next()?;
        matches!(kind, '%' | '{' | '#').then_some((kind, at))
    })
}

/// Where the tag that `text` begins with ends, after its closing bracket; one within quotation
/// marks is none.
fn tag_end(text: &str, kind: char) -> Option<usize> {
    let close = match kind {
        '%' => "%}",
        '{' => "}}",
        _ => return text.find("#}").map(|at| at + 2),
    };
    let mut walk = Walk::default();
    for (at, c) in text.char_indices().skip(2) {
        // A dictionary may end right before the tag does: `{{ {'a': {}}}}`.
        if !walk.quoted() && (kind == '%' || walk.depth() == 0) && text[at..].starts_with(close) {
            return Some(at + 2);
        }
        walk.step(c);
    }
    None
}

/// ` for x in xs if y ` with `xs` filtered.
fn for_loop(tag: &str) -> Option<String> {
    let body = tag.trim_start_matches(['-', '+']).trim_start();
    body.strip_prefix("for")
        .filter(|rest| rest.starts_with(char::is_whitespace))?;
    let start = word(tag, "in", 0)? + 2;
    let end = tag.trim_end_matches(['-', '+']).len();
    let end = ["if", "recursive"]
        .iter()
        .filter_map(|keyword| word(&tag[..end], keyword, start))
        .min()
        .unwrap_or(end);
    let (before, looped, after) = (&tag[..start], tag[start..end].trim(), &tag[end..]);
    Some(format!("{before} ({looped}) | {ITERABLE} {after}"))
}

/// `a | safe + b` as a filter of its terms.
fn safe_sum(inner: &str) -> Option<String> {
    let marked = inner.replace(' ', "").contains("|safe");
    let sum = inner.trim_matches(['-', '+']);
    let plain = ["if", "else", "and", "or", "not", "in", "is"]
        .iter()
        .all(|keyword| word(sum, keyword, 0).is_none());
    let terms = split(sum, '+');
    if !marked || !plain || terms.len() < 2 || split(sum, '~').len() > 1 {
        return None;
    }
    let before = &inner[..inner.len() - inner.trim_start_matches(['-', '+']).len()];
    let after = &inner[inner.trim_end_matches(['-', '+']).len()..];
    let terms: Vec<String> = terms
        .iter()
        .map(|term| format!("({})", term.trim()))
        .collect();
    Some(format!("{before} [{}] | {SUM} {after}", terms.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_becomes_a_filter_and_loops_are_guarded() {
        for (source, wanted) in [
            (
                "a{%- generation -%}b{% endgeneration %}",
                "a{%- filter _generation -%}b{% endfilter %}",
            ),
            ("{% for x in xs %}", "{% for x in (xs) | _iterable %}"),
            (
                "{%- for k, v in d.items() if k in ['a', \"if\"] -%}",
                "{%- for k, v in (d.items()) | _iterable if ((k) | _in((['a', \"if\"]))) -%}",
            ),
            (
                "{%for x in (a if b else c)%}",
                "{%for x in ((a if b else c)) | _iterable %}",
            ),
            (
                "{% for x in t recursive %}",
                "{% for x in (t) | _iterable recursive %}",
            ),
            (
                "{{ 'for x in y' }}{# {% for x in y %} #}",
                "{{ 'for x in y' }}{# {% for x in y %} #}",
            ),
            (
                "{% raw %}{% for x in y %}{% endraw %}",
                "{% raw %}{% for x in y %}{% endraw %}",
            ),
            (
                "{% if '%}' in x %}{{ {'a': {}} }}{% set y = 1 %}",
                "{% if (('%}') | _in((x))) %}{{ {'a': {}} }}{% set y = 1 %}",
            ),
            (
                "{{- 'a+' | safe + b['c'] + d }}",
                "{{- [('a+' | safe), (b['c']), (d)] | _markup_sum }}",
            ),
            (
                "{{ a + b }}{{ a|safe }}{{ a|safe if b + c else d }}",
                "{{ a + b }}{{ a|safe }}{{ a|safe if b + c else d }}",
            ),
            ("{% set format = 'in' %}{ {%", "{% set format = 'in' %}{ {%"),
            ("{{- 'a\\\nb\\\r\nc' }}", "{{-\n\n 'abc' }}"),
            ("{{ 'a\\\\\nb' }}", "{{ 'a\\\\\nb' }}"),
            ("{% raw %}{{ 'a\\\nb' }}", "{% raw %}{{ 'a\\\nb' }}"),
        ] {
            assert_eq!(rewrite(source).0, wanted);
        }
        assert!(
            rewrite("{%generation%}").1 && !rewrite("{{ generation }}{# {% generation %} #}").1
        );
    }
}
