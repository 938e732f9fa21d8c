//! Where Jinja2 as transformers sets it up differs from minijinja's own ways: tests, filters, methods and printing as
//! Python has them. The serving side renders with Python, and a prompt must be the same to the character.

use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value, escape_formatter, filters};

use super::json::{number_text, tojson};

/// Filters of Jinja2 that give a generator: always true, without a length, read once, no JSON.
const GENERATORS: [&str; 5] = ["map", "select", "selectattr", "reject", "rejectattr"];

/// Keeps minijinja's filters that go through a value under names of their own, for [`wrap`] to call.
fn keep(env: &mut Environment<'static>) -> [&'static str; 13] {
    env.add_filter("_map", filters::map);
    env.add_filter("_select", filters::select);
    env.add_filter("_selectattr", filters::selectattr);
    env.add_filter("_reject", filters::reject);
    env.add_filter("_rejectattr", filters::rejectattr);
    env.add_filter("_list", filters::list);
    env.add_filter("_join", filters::join);
    env.add_filter("_first", filters::first);
    env.add_filter("_last", filters::last);
    env.add_filter("_sort", filters::sort);
    env.add_filter("_unique", filters::unique);
    env.add_filter("_sum", filters::sum);
    env.add_filter("_reverse", filters::reverse);
    [
        "_map",
        "_select",
        "_selectattr",
        "_reject",
        "_rejectattr",
        "_list",
        "_join",
        "_first",
        "_last",
        "_sort",
        "_unique",
        "_sum",
        "_reverse",
    ]
}

/// Makes `env` render as Python does.
pub(super) fn install(env: &mut Environment<'static>) {
    env.add_test("iterable", is_iterable);
    env.add_test("sequence", is_sequence);
    env.add_test("callable", |value: &Value| value.as_object().is_some() && value.kind() == ValueKind::Plain);
    env.add_filter("tojson", tojson);
    env.add_filter("default", default);
    env.add_filter("d", default);
    env.add_filter("string", |value: &Value| text_of(value));
    env.add_filter(super::source::ITERABLE, iterable);
    for kept in keep(env) {
        wrap(env, kept);
    }
    env.add_filter(super::source::SUM, markup_sum);
    env.add_function("raise_exception", |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    env.set_unknown_method_callback(|state, value, method, args| match value.as_str() {
        Some(text) => match text_method(text, method, args)? {
            Some(result) => Ok(result),
            None => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
        },
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    });
    env.set_formatter(|out, state, value| match value.kind() {
        ValueKind::Number => escape_formatter(out, state, &Value::from(number_text(value))),
        _ => escape_formatter(out, state, value),
    });
}

/// Under its own name, the filter that is `kept` refuses none as Python does, and gives a generator where Jinja2's does.
fn wrap(env: &mut Environment<'static>, kept: &'static str) {
    let name = kept.trim_start_matches('_');
    let lazy = GENERATORS.contains(&name);
    env.add_filter(name, move |state: &mut State, args: Rest<ValueOrKwargs>| {
        let args = args.into_values();
        // Jinja2's generators look whether there is anything before they go through it.
        if let Some(value) = args.first().filter(|_| !lazy) {
            iterable(value.clone())?;
        }
        let result = state.apply_filter(kept, &args)?;
        if lazy { generator(result) } else { Ok(result) }
    });
}

fn generator(list: Value) -> Result<Value, Error> {
    let items: Vec<Value> = list.try_iter()?.collect();
    Ok(Value::make_one_shot_iterator(items.into_iter()))
}

/// `value`, unless it is none, over which Python does not iterate.
fn iterable(value: Value) -> Result<Value, Error> {
    if value.is_none() {
        return Err(Error::new(ErrorKind::InvalidOperation, "none is not iterable"));
    }
    Ok(value)
}

/// A sum of texts of which one is marked as safe: Python escapes the others.
fn markup_sum(terms: Vec<Value>) -> Result<Value, Error> {
    let mut sum = String::new();
    let mut safe = false;
    for term in terms {
        let Some(text) = term.as_str() else {
            return Err(Error::new(ErrorKind::InvalidOperation, format!("a text and {} cannot be added", term.kind())));
        };
        if term.is_safe() && !safe {
            sum = escaped(&sum);
        }
        safe |= term.is_safe();
        sum.push_str(&if safe && !term.is_safe() { escaped(text) } else { text.to_owned() });
    }
    Ok(if safe { Value::from_safe_string(sum) } else { sum.into() })
}

/// `text` as Python's MarkupSafe escapes it.
fn escaped(text: &str) -> String {
    let entity = |c: char| -> String {
        match c {
            '&' => "&amp;".into(),
            '<' => "&lt;".into(),
            '>' => "&gt;".into(),
            '"' => "&#34;".into(),
            '\'' => "&#39;".into(),
            c => c.to_string(),
        }
    };
    text.chars().map(entity).collect()
}

fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

fn is_sequence(value: &Value) -> bool {
    value.is_undefined() || matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String)
}

fn default(value: &Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    let (positional, kwargs): (&[Value], Kwargs) = from_args(&args)?;
    let named: Option<Value> = kwargs.get("default_value")?;
    let other = named.or_else(|| positional.first().cloned()).unwrap_or_else(|| Value::from(""));
    let named: Option<Value> = kwargs.get("boolean")?;
    let lax = named.or_else(|| positional.get(1).cloned()).is_some_and(|lax| lax.is_true());
    kwargs.assert_all_used()?;
    Ok(if value.is_undefined() || (lax && !value.is_true()) { other } else { value.clone() })
}

fn text_of(value: &Value) -> String {
    if value.kind() == ValueKind::Number { number_text(value) } else { value.to_string() }
}

/// Methods of Python's `str` that `pycompat` lacks.
fn text_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let argument = |place: usize| args.get(place).and_then(Value::as_str);
    let needed =
        || argument(0).ok_or_else(|| Error::new(ErrorKind::MissingArgument, format!("str.{method} needs a text")));
    let found = |at: Option<usize>| {
        let at = at.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "substring not found"))?;
        Ok::<_, Error>(Value::from(text[..at].chars().count()))
    };
    let value = match method {
        "index" => found(text.find(needed()?))?,
        "rindex" => found(text.rfind(needed()?))?,
        "removeprefix" => text.strip_prefix(needed()?).unwrap_or(text).into(),
        "removesuffix" => text.strip_suffix(needed()?).unwrap_or(text).into(),
        "partition" => split_once(text, needed()?, text.find(needed()?), [text, "", ""]),
        "rpartition" => split_once(text, needed()?, text.rfind(needed()?), ["", "", text]),
        "rsplit" => rsplit(text, argument(0), args.get(1)),
        "casefold" => text.to_lowercase().into(),
        "swapcase" => text.chars().flat_map(swapped).collect::<String>().into(),
        "zfill" | "ljust" | "rjust" | "center" => padded(text, method, args)?,
        _ => return Ok(None),
    };
    Ok(Some(value))
}

fn split_once(text: &str, separator: &str, at: Option<usize>, missing: [&str; 3]) -> Value {
    let parts = at.map_or(missing, |at| [&text[..at], separator, &text[at + separator.len()..]]);
    parts.into_iter().map(Value::from).collect()
}

fn rsplit(text: &str, separator: Option<&str>, most: Option<&Value>) -> Value {
    let most =
        most.and_then(|most| usize::try_from(most.clone()).ok()).map_or(usize::MAX, |most| most.saturating_add(1));
    let mut parts: Vec<&str> = match separator {
        Some(separator) => text.rsplitn(most, separator).collect(),
        None if most == usize::MAX => text.split_whitespace().rev().collect(),
        None => text.trim().rsplitn(most, char::is_whitespace).map(str::trim).filter(|part| !part.is_empty()).collect(),
    };
    parts.reverse();
    parts.into_iter().map(Value::from).collect()
}

fn swapped(c: char) -> Box<dyn Iterator<Item = char>> {
    if c.is_uppercase() { Box::new(c.to_lowercase()) } else { Box::new(c.to_uppercase()) }
}

fn padded(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let width: usize = args.first().cloned().unwrap_or_default().try_into()?;
    let missing = width.saturating_sub(text.chars().count());
    let fill = args.get(1).and_then(Value::as_str).unwrap_or(" ");
    Ok(Value::from(match method {
        "zfill" => {
            let digits = text.trim_start_matches(['+', '-']);
            format!("{}{}{digits}", &text[..text.len() - digits.len()], "0".repeat(missing))
        }
        "ljust" => text.to_owned() + &fill.repeat(missing),
        "rjust" => fill.repeat(missing) + text,
        // Of an odd number, Python puts the larger half on the left where the width is odd.
        _ => {
            let left = missing / 2 + (missing & width & 1);
            fill.repeat(left) + text + &fill.repeat(missing - left)
        }
    }))
}
