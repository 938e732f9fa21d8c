//! Filters and tests of numbers: `int` and `float`, which return a default for what is no number,
//! and others that Python refuses for it.

use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, Value, filters, tests};

/// Adds the filters and tests.
pub(super) fn install(env: &mut Environment<'static>) {
    env.add_filter("int", int);
    env.add_filter("float", float);
    env.add_filter("abs", |value: &Value| match value.kind() {
        ValueKind::Bool => Ok(Value::from(i64::from(value.is_true()))),
        _ => filters::abs(value.clone()),
    });
    env.add_test("odd", |value: &Value| {
        number(value).map(|()| tests::is_odd(value.clone()))
    });
    env.add_test("even", |value: &Value| {
        number(value).map(|()| tests::is_even(value.clone()))
    });
    env.add_test("divisibleby", |value: &Value, by: &Value| {
        number(value)?;
        number(by)?;
        // As a number, `false` divides nothing either.
        if !by.is_true() {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "nothing is divided by 0",
            ));
        }
        Ok(tests::is_divisibleby(value, by))
    });
}

fn number(value: &Value) -> Result<(), Error> {
    if matches!(value.kind(), ValueKind::Number | ValueKind::Bool) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidOperation,
        format!("{} has no remainder", value.kind()),
    ))
}

/// `int(value, default=0, base=10)`.
fn int(value: &Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    let (positional, kwargs): (&[Value], Kwargs) = from_args(&args)?;
    let default = argument(positional, &kwargs, 0, "default")?.unwrap_or_else(|| Value::from(0));
    let base: u32 = argument(positional, &kwargs, 1, "base")?.map_or(Ok(10), TryInto::try_into)?;
    kwargs.assert_all_used()?;
    defined(value)?;
    let whole = match value.as_str() {
        Some(text) => whole(text, base).or_else(|| truncated(fraction(text)?)),
        None if value.is_integer() => return Ok(value.clone()),
        None if value.kind() == ValueKind::Bool => Some(i128::from(value.is_true())),
        None => f64::try_from(value.clone()).ok().and_then(truncated),
    };
    Ok(whole.map_or(default, |whole| {
        i64::try_from(whole).map_or_else(|_| Value::from(whole), Value::from)
    }))
}

/// `float(value, default=0.0)`.
fn float(value: &Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    let (positional, kwargs): (&[Value], Kwargs) = from_args(&args)?;
    let default = argument(positional, &kwargs, 0, "default")?.unwrap_or_else(|| Value::from(0.0));
    kwargs.assert_all_used()?;
    defined(value)?;
    let number = match value.as_str() {
        Some(text) => fraction(text),
        None if value.kind() == ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        None => f64::try_from(value.clone()).ok(),
    };
    Ok(number.map_or(default, Value::from))
}

fn argument(
    positional: &[Value],
    kwargs: &Kwargs,
    place: usize,
    name: &str,
) -> Result<Option<Value>, Error> {
    let named: Option<Value> = kwargs.get(name)?;
    Ok(named.or_else(|| positional.get(place).cloned()))
}

fn defined(value: &Value) -> Result<(), Error> {
    if value.is_undefined() {
        Err(Error::from(ErrorKind::UndefinedError))
    } else {
        Ok(())
    }
}

/// The number that Python's `int(text, base)` reads.
fn whole(text: &str, base: u32) -> Option<i128> {
    let text = text.trim();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_lowercase();
    let prefixed = [("0x", 16), ("0o", 8), ("0b", 2)]
        .into_iter()
        .find(|(prefix, own)| lower.starts_with(prefix) && (base == *own || base == 0));
    let (digits, base) = match prefixed {
        Some((_, own)) => (&lower[2..], own),
        None => (lower.as_str(), if base == 0 { 10 } else { base }),
    };
    let plain = without_underscores(digits)?;
    if !(2..=36).contains(&base) || plain.starts_with(['+', '-']) {
        return None;
    }
    let number = i128::from_str_radix(&plain, base).ok()?;
    Some(if negative { -number } else { number })
}

/// The number that Python's `float(text)` reads.
fn fraction(text: &str) -> Option<f64> {
    without_underscores(text.trim())?.parse().ok()
}

/// Underscores may stand between digits.
fn without_underscores(text: &str) -> Option<String> {
    let odd = text.starts_with('_') || text.ends_with('_') || text.contains("__");
    (!odd).then(|| text.replace('_', ""))
}

fn truncated(number: f64) -> Option<i128> {
    (number.is_finite() && number.abs() < 1e38).then(|| number.trunc() as i128)
}
