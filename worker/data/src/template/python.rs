//! Where Jinja2, as transformers sets it up, differs from minijinja: tests, filters, methods and
//! printing as Python has them. The serving side renders with Python, and every character of a
//! prompt must be the same.

use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{
    Environment, Error, ErrorKind, State, Value, escape_formatter, filters, functions,
};
use minijinja_contrib::globals::joiner;

use super::cycler::cycler;
use super::json::tojson;
use super::markup::{escape, markup_sum};
use super::objects::{attr, printable};
use super::range::{is_range, range};
use super::repr::{text_of, view};
use super::{compare, methods, numbers, ordered, printf, texts, widths};

/// Filters of Jinja2 that give a generator: always true, without a length, read once, no JSON.
const GENERATORS: [&str; 10] = [
    "map",
    "select",
    "selectattr",
    "reject",
    "rejectattr",
    "unique",
    "reverse",
    "batch",
    "slice",
    "items",
];

/// Keeps minijinja's filters that go through a value under names of their own, for [`wrap`] to
/// call.
fn keep(env: &mut Environment<'static>) -> [&'static str; 19] {
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
    env.add_filter("_min", filters::min);
    env.add_filter("_max", filters::max);
    env.add_filter("_groupby", filters::groupby);
    env.add_filter("_batch", filters::batch);
    env.add_filter("_slice", filters::slice);
    env.add_filter("_items", filters::items);
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
        "_min",
        "_max",
        "_groupby",
        "_batch",
        "_slice",
        "_items",
    ]
}

/// Makes `env` render as Python does.
pub(super) fn install(env: &mut Environment<'static>) {
    add_tests(env);
    add_filters_and_functions(env);
    compare::install(env);
    methods::install(env);
    numbers::install(env);
    for kept in keep(env) {
        wrap(env, kept);
    }
    env.set_unknown_method_callback(unknown_method);
    env.set_formatter(|out, state, value| match printable(value)?.kind() {
        ValueKind::Number | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
            escape_formatter(out, state, &text_of(value).into())
        }
        _ => escape_formatter(out, state, value),
    });
}

fn add_tests(env: &mut Environment<'static>) {
    env.add_test("iterable", is_iterable);
    env.add_test("sequence", is_sequence);
    env.add_test("callable", |value: &Value| {
        // Jinja2's undefined value can be called, and raises then.
        value.is_undefined() || (value.kind() == ValueKind::Plain && !is_range(value))
    });
    env.add_test("lower", |value: &Value| {
        texts::is_cased(&text_of(value), char::is_lowercase)
    });
    env.add_test("upper", |value: &Value| {
        texts::is_cased(&text_of(value), char::is_uppercase)
    });
}

fn add_filters_and_functions(env: &mut Environment<'static>) {
    env.add_filter("tojson", tojson);
    env.add_filter("default", default);
    env.add_filter("d", default);
    env.add_filter("string", |value: &Value| printable(value).map(text_of));
    env.add_filter("attr", attr);
    env.add_function("range", range);
    env.add_filter("trim", trim);
    env.add_filter("escape", escape);
    env.add_filter("e", escape);
    env.add_filter("indent", indent);
    env.add_filter("_format", filters::format);
    env.add_filter("format", format_text);
    env.add_filter("_dictsort", filters::dictsort);
    env.add_filter("dictsort", dictsort);
    env.add_function("cycler", cycler);
    // These print otherwise than Jinja2's, or are not there.
    env.remove_filter("pprint");
    env.remove_global("debug");
    env.add_function("joiner", |separator: Option<Value>| {
        joiner(Some(separator.unwrap_or_else(|| ", ".into())))
    });
    env.add_filter(super::source::ITERABLE, looped);
    env.add_filter(super::source::SUM, markup_sum);
    env.add_filter(printf::FORMAT, printf::printf);
    env.add_function("namespace", namespace);
    env.add_function(
        "raise_exception",
        |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        },
    );
}

/// What a method gives that minijinja's values do not have themselves.
fn unknown_method(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let found = match value.as_str() {
        Some(text) if method == "format" => {
            widths::check_format(text)?;
            None
        }
        Some(text) => texts::method(text, method, args)?,
        None => container_method(value, method, args)?,
    };
    match found {
        Some(result) => Ok(result),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// Under its own name, the filter that is `kept` refuses none as Python does, and gives a generator
/// where Jinja2's does.
fn wrap(env: &mut Environment<'static>, kept: &'static str) {
    let name = kept.trim_start_matches('_');
    let lazy = GENERATORS.contains(&name);
    env.add_filter(name, move |state: &mut State, args: Rest<ValueOrKwargs>| {
        let mut args = args.into_values();
        if let (true, Some(filter)) = (name == "map", args.get(1).and_then(Value::as_str)) {
            return generator(mapped(state, filter, &args)?);
        }
        // Jinja2's generators look whether there is anything before they go through it.
        if let Some(value) = args
            .first()
            .filter(|_| !lazy || ["_unique", "_reverse", "_batch", "_slice"].contains(&kept))
        {
            iterable(value.clone())?;
        }
        // The filters of minijinja know a range by its items alone.
        if let Some(range) = args.first_mut().filter(|value| is_range(value)) {
            *range = Value::from(range.try_iter()?.collect::<Vec<_>>());
        }
        ordered::check(state, name, &mut args)?;
        let result = state.apply_filter(kept, &args)?;
        // A text that is reversed stays one.
        if lazy && result.as_str().is_none() {
            generator(result)
        } else {
            Ok(result)
        }
    });
}

/// `map(filter, ...)`: whatever follows the name of the filter is the filter's.
fn mapped(state: &mut State, filter: &str, args: &[Value]) -> Result<Value, Error> {
    let mut results = Vec::new();
    // What is nothing has no items, none included.
    let items = if args[0].is_true() {
        Some(args[0].try_iter()?)
    } else {
        None
    };
    for item in items.into_iter().flatten() {
        let given: Vec<Value> = std::iter::once(item)
            .chain(args[2..].iter().cloned())
            .collect();
        results.push(state.apply_filter(filter, &given)?);
    }
    Ok(Value::from(results))
}

fn generator(list: Value) -> Result<Value, Error> {
    let items: Vec<Value> = list.try_iter()?.collect();
    Ok(Value::make_one_shot_iterator(items.into_iter()))
}

/// `value`, unless it is none, over which Python does not iterate.
fn iterable(value: Value) -> Result<Value, Error> {
    if value.is_none() {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "none is not iterable",
        ));
    }
    Ok(value)
}

/// What a loop goes through; as in Jinja2, a loop over a generator knows its length.
fn looped(value: Value) -> Result<Value, Error> {
    if value.kind() == ValueKind::Iterable && value.len().is_none() {
        return Ok(Value::from(value.try_iter()?.collect::<Vec<_>>()));
    }
    iterable(value)
}

fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

fn is_sequence(value: &Value) -> bool {
    let kinds = matches!(
        value.kind(),
        ValueKind::Seq | ValueKind::Map | ValueKind::String
    );
    value.is_undefined() || kinds || is_range(value)
}

fn default(value: &Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    let (positional, kwargs): (&[Value], Kwargs) = from_args(&args)?;
    let named: Option<Value> = kwargs.get("default_value")?;
    let other = named
        .or_else(|| positional.first().cloned())
        .unwrap_or_else(|| Value::from(""));
    let named: Option<Value> = kwargs.get("boolean")?;
    let lax = named
        .or_else(|| positional.get(1).cloned())
        .is_some_and(|lax| lax.is_true());
    kwargs.assert_all_used()?;
    Ok(if value.is_undefined() || (lax && !value.is_true()) {
        other
    } else {
        value.clone()
    })
}

/// `trim(value, chars=None)`, which makes a text of what is none.
fn trim(value: &Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    let (positional, kwargs): (&[Value], Kwargs) = from_args(&args)?;
    let named: Option<Value> = kwargs.get("chars")?;
    kwargs.assert_all_used()?;
    let chars = named
        .or_else(|| positional.first().cloned())
        .filter(|chars| !chars.is_none());
    let text = text_of(value);
    Ok(Value::from(texts::stripped(
        &text,
        "strip",
        chars.as_ref(),
    )?))
}

/// `indent(s, width=4, first=False, blank=False)`; the width may be the text to indent by.
fn indent(value: &Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    let (positional, kwargs): (&[Value], Kwargs) = from_args(&args)?;
    let argument = |place: usize, name: &str| -> Result<Option<Value>, Error> {
        let named: Option<Value> = kwargs.get(name)?;
        Ok(named.or_else(|| positional.get(place).cloned()))
    };
    let indention = match argument(0, "width")? {
        None => " ".repeat(4),
        Some(width) => match width.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(u16::try_from(width)?.into()),
        },
    };
    let first = argument(1, "first")?.is_some_and(|first| first.is_true());
    let blank = argument(2, "blank")?.is_some_and(|blank| blank.is_true());
    kwargs.assert_all_used()?;
    // As in Jinja2, a last line that is empty counts.
    let given = value.as_str().ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidOperation,
            format!("`indent` takes a text, not a {}", value.kind()),
        )
    })?;
    let text = format!("{given}\n");
    let lines = texts::lines(&text, false);
    let added = lines.len().saturating_mul(indention.chars().count());
    widths::check(added, "`indent`")?;
    let indented = |(place, line): (usize, &str)| match place {
        0 if !first => line.to_owned(),
        _ if line.is_empty() && !blank && place > 0 => String::new(),
        _ => format!("{indention}{line}"),
    };
    let lines: Vec<String> = lines.into_iter().enumerate().map(indented).collect();
    Ok(Value::from(lines.join("\n")))
}

/// `format(text, values)`, whose places are not too wide.
fn format_text(state: &mut State, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    if let Some(text) = args.first().and_then(Value::as_str) {
        widths::check_printf(text, "the filter `format`")?;
    }
    state.apply_filter("_format", &args)
}

/// `dictsort(value, case_sensitive, by, reverse)` by place as by name.
fn dictsort(state: &mut State, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    let (positional, kwargs): (&[Value], Kwargs) = from_args(&args)?;
    let mut named: Vec<(&str, Value)> = Vec::new();
    for (place, name) in ["case_sensitive", "by", "reverse"].into_iter().enumerate() {
        let given: Option<Value> = kwargs.get(name)?;
        named.extend(
            given
                .or_else(|| positional.get(place + 1).cloned())
                .map(|value| (name, value)),
        );
    }
    kwargs.assert_all_used()?;
    let value = positional.first().cloned().unwrap_or_default();
    let by_value = named
        .iter()
        .any(|(name, value)| *name == "by" && value.as_str() == Some("value"));
    ordered::check_dict(&value, by_value)?;
    state.apply_filter("_dictsort", &[value, Kwargs::from_iter(named).into()])
}

/// `namespace({...}, name=value)`: a dictionary, names, or both.
fn namespace(args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    let (positional, kwargs): (&[Value], Kwargs) = from_args(&args)?;
    let mut values: Vec<(String, Value)> = Vec::new();
    if let [given] = positional {
        for key in given.try_iter()? {
            values.push((key.to_string(), given.get_item(&key)?));
        }
    } else if !positional.is_empty() {
        return Err(Error::new(
            ErrorKind::TooManyArguments,
            "a namespace is made of one dictionary",
        ));
    }
    for name in kwargs.args() {
        values.push((name.to_owned(), kwargs.get(name)?));
    }
    let (defaults,): (Option<ValueOrKwargs>,) = from_args(&[Kwargs::from_iter(values).into()])?;
    functions::namespace(defaults)
}

/// `index` and `copy` of lists and objects, which minijinja lacks.
fn container_method(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match (value.kind(), method, args) {
        (ValueKind::Seq | ValueKind::Map, "copy", []) => Ok(Some(value.clone())),
        (ValueKind::Map, _, []) => view(value, method),
        (ValueKind::Seq, "index", [wanted]) => {
            let place = value.try_iter()?.position(|item| item == *wanted);
            let missing = || {
                Error::new(
                    ErrorKind::InvalidOperation,
                    format!("{wanted} is not in the list"),
                )
            };
            place
                .map(|place| Some(Value::from(place)))
                .ok_or_else(missing)
        }
        _ => Ok(None),
    }
}
