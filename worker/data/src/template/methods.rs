//! Methods of Python that a template names without calling them. Python's value is the method,
//! whatever keys a dictionary has; minijinja has the key, or nothing. It gives no way to tell
//! attributes from items, so such an attribute becomes a filter in the text of the template.

use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, Value};

use super::objects::is_dict;
use super::range::is_range;
use super::walk::Walk;

/// Filter of attributes that are methods of a Python type.
const ATTRIBUTE: &str = "_attribute";

const TEXTS: &str = "capitalize casefold center count encode endswith expandtabs find format format_map index isalnum isalpha isascii isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip maketrans partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith strip swapcase title translate upper zfill";
const LISTS: &str = "copy count index";
const TUPLES: &str = "count index";
const RANGES: &str = "count index start step stop";
const DICTS: &str = "copy fromkeys get items keys values";
const NUMBERS: &str = "as_integer_ratio bit_count bit_length conjugate denominator from_bytes fromhex hex imag is_integer numerator real to_bytes";

/// Methods that change their value: Jinja2 hides them, as transformers sets it up.
const LIST_CHANGES: &str = "append clear extend insert pop remove reverse sort";
const DICT_CHANGES: &str = "clear pop popitem setdefault update";

fn has(names: &str, name: &str) -> bool {
    names.split(' ').any(|known| known == name)
}

/// Adds the filter that attributes become.
pub(super) fn install(env: &mut Environment<'static>) {
    env.add_filter(ATTRIBUTE, attribute);
}

/// `value.name`, which is not called.
fn attribute(value: &Value, name: &str) -> Result<Value, Error> {
    let hidden = match value.kind() {
        ValueKind::Seq if !value.is_tuple() => LIST_CHANGES,
        ValueKind::Map if is_dict(value) => DICT_CHANGES,
        _ => "",
    };
    if has(hidden, name) {
        return Ok(Value::UNDEFINED);
    }
    let methods = match value.kind() {
        ValueKind::String => TEXTS,
        ValueKind::Seq if value.is_tuple() => TUPLES,
        ValueKind::Seq => LISTS,
        ValueKind::Map if is_dict(value) => DICTS,
        ValueKind::Number | ValueKind::Bool => NUMBERS,
        ValueKind::Plain if is_range(value) => RANGES,
        _ => "",
    };
    if has(methods, name) {
        let way_out = format!("call it, or write `x['{name}']` for the item");
        let fault = format!(
            "`.{name}` of a {} is a method in Python, and is not called; {way_out}",
            value.kind()
        );
        return Err(Error::new(ErrorKind::InvalidOperation, fault));
    }
    value.get_attr(name)
}

/// `tag`, what stands between the brackets of a tag, with each attribute that may be a method as a
/// filter, unless it is called, or something stands behind it that belongs to it. `block` is for
/// `{%`.
pub(super) fn rewrite(tag: &str, block: bool) -> String {
    let inner = tag.trim_start_matches(['-', '+']).trim_start();
    // What is set is no value yet.
    let is_set = block
        && inner
            .strip_prefix("set")
            .is_some_and(|rest| rest.starts_with(char::is_whitespace));
    let start = if is_set { assignment(tag) } else { 0 };
    let (mut out, mut walk) = (tag[..start].to_owned(), Walk::default());
    let (mut at, mut before) = (start, ' ');
    while let Some(c) = tag[at..].chars().next() {
        if c == '.' && !walk.quoted() && ends_operand(before) {
            let rest = &tag[at + 1..];
            let name = &rest[..rest.len()
                - rest
                    .trim_start_matches(|c: char| c.is_alphanumeric() || c == '_')
                    .len()];
            let behind = rest[name.len()..].trim_start();
            if is_method(name) && !behind.starts_with(['(', '.', '[']) {
                out.push_str(&format!(" | {ATTRIBUTE}('{name}')"));
                at += 1 + name.len();
                before = ')';
                continue;
            }
        }
        walk.step(c);
        out.push(c);
        at += c.len_utf8();
        before = if c.is_whitespace() { before } else { c };
    }
    out
}

fn is_method(name: &str) -> bool {
    [
        TEXTS,
        LISTS,
        RANGES,
        DICTS,
        NUMBERS,
        LIST_CHANGES,
        DICT_CHANGES,
    ]
    .iter()
    .any(|names| has(names, name))
}

fn ends_operand(before: char) -> bool {
    before.is_alphanumeric() || matches!(before, '_' | ')' | ']' | '}' | '"' | '\'')
}

/// Where the value begins in a tag that sets one; its end where it sets a block.
fn assignment(tag: &str) -> usize {
    let mut walk = Walk::default();
    for (at, c) in tag.char_indices() {
        if c == '=' && !walk.quoted() && walk.depth() == 0 {
            return at + 1;
        }
        walk.step(c);
    }
    tag.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_that_may_be_methods_become_filters_unless_they_are_called() {
        for (block, source, wanted) in [
            (false, " x.items ", " x | _attribute('items') "),
            (
                false,
                " x['a'].items | length + f(y.upper) ",
                " x['a'] | _attribute('items') | length + f(y | _attribute('upper')) ",
            ),
            (
                false,
                " x.items() ~ x.items ().y ~ x.items.y ",
                " x.items() ~ x.items ().y ~ x.items.y ",
            ),
            (
                false,
                " x.role ~ 'a.items' ~ 1.5 ",
                " x.role ~ 'a.items' ~ 1.5 ",
            ),
            (
                true,
                " set ns.count = ns.count + 1 ",
                " set ns.count = ns | _attribute('count') + 1 ",
            ),
            (
                true,
                "- if x.items is defined -",
                "- if x | _attribute('items') is defined -",
            ),
            (true, " set x ", " set x "),
        ] {
            assert_eq!(rewrite(source, block), wanted);
        }
    }
}
