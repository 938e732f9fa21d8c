//! Methods of Python's `str` as Python has them, where minijinja's lack arguments or differ.

use minijinja::value::{Kwargs, Tuple, from_args};
use minijinja::{Error, ErrorKind, Value};

use super::capitals::{capital, is_titlecase};
use super::repr::is_printable;
use super::widths;

/// White space of `str.strip` and `str.split`.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Arguments of a method, by place or name.
struct Arguments<'a> {
    method: &'a str,
    positional: &'a [Value],
    kwargs: Kwargs,
}

impl Arguments<'_> {
    fn get(&self, place: usize, name: &str) -> Result<Option<Value>, Error> {
        let named: Option<Value> = if name.is_empty() {
            None
        } else {
            self.kwargs.get(name)?
        };
        Ok(named
            .or_else(|| self.positional.get(place).cloned())
            .filter(|value| !value.is_none()))
    }

    fn text(&self, place: usize) -> Result<&str, Error> {
        self.positional
            .get(place)
            .and_then(Value::as_str)
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::InvalidOperation,
                    format!("str.{} needs a text", self.method),
                )
            })
    }

    fn number(&self, place: usize, name: &str) -> Result<Option<i64>, Error> {
        self.get(place, name)?.map(i64::try_from).transpose()
    }

    fn separator(&self) -> Result<Option<String>, Error> {
        let separator = self.get(0, "sep")?;
        let text = separator.map(|separator| {
            separator
                .as_str()
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
                .ok_or_else(|| {
                    Error::new(
                        ErrorKind::InvalidOperation,
                        format!("str.{} needs a separator", self.method),
                    )
                })
        });
        text.transpose()
    }
}

/// What `method` of `text` gives; none where it is not one of those here.
pub(super) fn method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let (positional, kwargs): (&[Value], Kwargs) = from_args(args)?;
    let args = Arguments {
        method,
        positional,
        kwargs,
    };
    let value = match method {
        "find" | "rfind" | "index" | "rindex" | "count" => searched(text, &args)?,
        "startswith" | "endswith" => edged(text, &args)?,
        "split" | "rsplit" => split(text, &args)?,
        "splitlines" => {
            let ends = args.get(0, "keepends")?.is_some_and(|keep| keep.is_true());
            lines(text, ends).into_iter().map(Value::from).collect()
        }
        "strip" | "lstrip" | "rstrip" => {
            Value::from(stripped(text, method, args.get(0, "")?.as_ref())?)
        }
        "removeprefix" => text.strip_prefix(args.text(0)?).unwrap_or(text).into(),
        "removesuffix" => text.strip_suffix(args.text(0)?).unwrap_or(text).into(),
        "partition" => parted(
            text,
            args.text(0)?,
            text.find(args.text(0)?),
            [text, "", ""],
        ),
        "rpartition" => parted(
            text,
            args.text(0)?,
            text.rfind(args.text(0)?),
            ["", "", text],
        ),
        "join" => joined(text, args.positional.first())?,
        "casefold" => text.replace(['ß', 'ẞ'], "ss").to_lowercase().into(),
        "swapcase" => text.chars().map(swapped).collect::<String>().into(),
        "title" => titled(text).into(),
        "capitalize" => capitalized(text).into(),
        "zfill" | "ljust" | "rjust" | "center" => padded(text, &args)?,
        "isdecimal" => all(text, |c| c.is_ascii_digit() || is_decimal(c)),
        "isdigit" => all(text, |c| {
            is_decimal(c) || matches!(c, '²' | '³' | '¹' | '\u{2070}'..='\u{2089}')
        }),
        "isspace" => all(text, is_space),
        "isnumeric" => all(text, |c| {
            c.is_numeric() || "零〇一二三四五六七八九十百千万億".contains(c)
        }),
        "isprintable" => Value::from(text.chars().all(is_printable)),
        "istitle" => Value::from(is_titled(text)),
        "isidentifier" => Value::from(is_identifier(text)),
        _ => return Ok(None),
    };
    args.kwargs.assert_all_used()?;
    Ok(Some(value))
}

/// `str.islower` and `str.isupper`: letters of that case, and none of the other.
pub(super) fn is_cased(text: &str, fits: fn(char) -> bool) -> bool {
    let mut letters = text
        .chars()
        .filter(|c| c.is_lowercase() || c.is_uppercase())
        .peekable();
    letters.peek().is_some() && letters.all(fits)
}

fn all(text: &str, fits: impl Fn(char) -> bool) -> Value {
    Value::from(!text.is_empty() && text.chars().all(fits))
}

fn is_identifier(text: &str) -> bool {
    let is_part = |c: char| c == '_' || c.is_alphanumeric();
    let starts = text
        .chars()
        .next()
        .is_some_and(|c| is_part(c) && !c.is_numeric());
    starts && text.chars().all(is_part)
}

/// A digit of a script in which ten follow one another from a zero.
fn is_decimal(c: char) -> bool {
    const ZEROS: [u32; 12] = [
        0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xe50, 0xff10,
    ];
    ZEROS
        .iter()
        .any(|zero| (*zero..zero + 10).contains(&u32::from(c)))
}

/// The characters of `text` from the argument `start` up to `end`, and how many stand before them;
/// none where `start` lies behind the text.
fn window<'t>(text: &'t str, args: &Arguments<'_>) -> Result<Option<(&'t str, usize)>, Error> {
    let length = text.chars().count();
    let place = |at: i64| {
        if at < 0 {
            length.saturating_sub(at.unsigned_abs() as usize)
        } else {
            at as usize
        }
    };
    let start = args.number(1, "")?.map_or(0, place);
    let end = args.number(2, "")?.map_or(length, place).min(length);
    if start > end {
        return Ok(None);
    }
    let byte = |at: usize| {
        text.char_indices()
            .nth(at)
            .map_or(text.len(), |(byte, _)| byte)
    };
    Ok(Some((&text[byte(start)..byte(end)], start)))
}

fn searched(text: &str, args: &Arguments<'_>) -> Result<Value, Error> {
    let wanted = args.text(0)?;
    let Some((part, before)) = window(text, args)? else {
        return match args.method {
            "count" => Ok(Value::from(0)),
            "find" | "rfind" => Ok(Value::from(-1)),
            _ => Err(Error::new(
                ErrorKind::InvalidOperation,
                "substring not found",
            )),
        };
    };
    let at = match args.method {
        "count" => return Ok(Value::from(part.matches(wanted).count())),
        "find" | "index" => part.find(wanted),
        _ => part.rfind(wanted),
    };
    match at {
        Some(at) => Ok(Value::from(before + part[..at].chars().count())),
        None if args.method.ends_with("find") => Ok(Value::from(-1)),
        None => Err(Error::new(
            ErrorKind::InvalidOperation,
            "substring not found",
        )),
    }
}

fn edged(text: &str, args: &Arguments<'_>) -> Result<Value, Error> {
    let fault = || {
        Error::new(
            ErrorKind::InvalidOperation,
            format!("str.{} needs a text or several", args.method),
        )
    };
    let wanted = args.positional.first().ok_or_else(fault)?;
    let several: Vec<Value> = match wanted.as_str() {
        Some(_) => vec![wanted.clone()],
        None if wanted.is_tuple() => wanted.try_iter()?.collect(),
        None => return Err(fault()),
    };
    let part = window(text, args)?.map(|(part, _)| part);
    for edge in &several {
        let edge = edge.as_str().ok_or_else(fault)?;
        let fits = |part: &str| {
            if args.method == "endswith" {
                part.ends_with(edge)
            } else {
                part.starts_with(edge)
            }
        };
        if part.is_some_and(fits) {
            return Ok(Value::from(true));
        }
    }
    Ok(Value::from(false))
}

fn split(text: &str, args: &Arguments<'_>) -> Result<Value, Error> {
    let most = args
        .number(1, "maxsplit")?
        .filter(|most| *most >= 0)
        .map_or(usize::MAX, |most| most as usize);
    let parts: Vec<&str> = match (args.separator()?, args.method) {
        (Some(separator), "split") => text
            .splitn(most.saturating_add(1), separator.as_str())
            .collect(),
        (Some(separator), _) => {
            let mut parts: Vec<&str> = text
                .rsplitn(most.saturating_add(1), separator.as_str())
                .collect();
            parts.reverse();
            parts
        }
        (None, "split") => words(text, most),
        (None, _) => words_from_the_end(text, most),
    };
    Ok(parts.into_iter().map(Value::from).collect())
}

fn words(text: &str, most: usize) -> Vec<&str> {
    let (mut parts, mut rest) = (Vec::new(), text.trim_start_matches(is_space));
    while !rest.is_empty() {
        let end = if parts.len() < most {
            rest.find(is_space).unwrap_or(rest.len())
        } else {
            rest.len()
        };
        parts.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(is_space);
    }
    parts
}

fn words_from_the_end(text: &str, most: usize) -> Vec<&str> {
    let (mut parts, mut rest) = (Vec::new(), text.trim_end_matches(is_space));
    while !rest.is_empty() {
        let space = rest
            .char_indices()
            .rev()
            .find(|(_, c)| is_space(*c))
            .filter(|_| parts.len() < most);
        let start = space.map_or(0, |(at, c)| at + c.len_utf8());
        parts.push(&rest[start..]);
        rest = rest[..start].trim_end_matches(is_space);
    }
    parts.reverse();
    parts
}

/// As `str.splitlines`.
pub(super) fn lines(text: &str, ends: bool) -> Vec<&str> {
    let (mut lines, mut start) = (Vec::new(), 0);
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if !matches!(
            c,
            '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
        ) {
            continue;
        }
        let mut end = at + c.len_utf8();
        if c == '\r' && chars.next_if(|(_, next)| *next == '\n').is_some() {
            end += 1;
        }
        lines.push(&text[start..if ends { end } else { at }]);
        start = end;
    }
    if start < text.len() {
        lines.push(&text[start..]);
    }
    lines
}

/// `text` without white space, or the characters of `chars`, at the ends that `method` names.
pub(super) fn stripped<'t>(
    text: &'t str,
    method: &str,
    chars: Option<&Value>,
) -> Result<&'t str, Error> {
    let chars = chars
        .map(|chars| {
            chars
                .as_str()
                .ok_or_else(|| Error::from(ErrorKind::InvalidOperation))
        })
        .transpose()?;
    let goes = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if method == "rstrip" {
        text
    } else {
        text.trim_start_matches(goes)
    };
    Ok(if method == "lstrip" {
        text
    } else {
        text.trim_end_matches(goes)
    })
}

fn parted(text: &str, separator: &str, at: Option<usize>, missing: [&str; 3]) -> Value {
    let parts = at.map_or(missing, |at| {
        [&text[..at], separator, &text[at + separator.len()..]]
    });
    Value::from(Tuple::from(parts.map(Value::from)))
}

fn joined(text: &str, items: Option<&Value>) -> Result<Value, Error> {
    let items = items.ok_or_else(|| Error::from(ErrorKind::MissingArgument))?;
    let mut parts = Vec::new();
    for item in items.try_iter()? {
        let part = item.as_str().map(str::to_owned);
        parts.push(part.ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidOperation,
                format!("str.join joins texts, and {} is none", item.kind()),
            )
        })?);
    }
    Ok(Value::from(parts.join(text)))
}

fn swapped(c: char) -> String {
    if c.is_uppercase() {
        c.to_lowercase().collect()
    } else {
        c.to_uppercase().collect()
    }
}

/// A capital behind whatever has no case, as `str.title`.
fn titled(text: &str) -> String {
    let mut within = false;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if within {
            out.extend(c.to_lowercase());
        } else {
            out.push_str(&capital(c));
        }
        within = has_case(c);
    }
    out
}

fn has_case(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || is_titlecase(c)
}

/// As `str.istitle`: capitals behind what has no case, small letters behind what has.
fn is_titled(text: &str) -> bool {
    let mut within = false;
    for c in text.chars() {
        let begins = c.is_uppercase() || is_titlecase(c);
        if has_case(c) && begins == within {
            return false;
        }
        within = has_case(c);
    }
    text.chars().any(has_case)
}

/// As `str.capitalize`.
fn capitalized(text: &str) -> String {
    let Some(first) = text.chars().next() else {
        return String::new();
    };
    let lower = text.to_lowercase();
    let rest = first.to_lowercase().map(char::len_utf8).sum::<usize>();
    capital(first) + lower.get(rest..).unwrap_or_default()
}

fn padded(text: &str, args: &Arguments<'_>) -> Result<Value, Error> {
    let width = args
        .number(0, "")?
        .ok_or_else(|| Error::from(ErrorKind::MissingArgument))?;
    let width = usize::try_from(width).unwrap_or(0);
    let missing = width.saturating_sub(text.chars().count());
    widths::check(missing, &format!("str.{}", args.method))?;
    let fill = match args.get(1, "")? {
        None => " ".to_owned(),
        Some(fill) => one_character(&fill, args.method)?,
    };
    Ok(Value::from(match args.method {
        "zfill" => {
            let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
            format!(
                "{}{}{digits}",
                &text[..text.len() - digits.len()],
                "0".repeat(missing)
            )
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

/// What a text is filled up with: a longer one, a million times, is more than any machine holds.
fn one_character(fill: &Value, method: &str) -> Result<String, Error> {
    let fill = fill.as_str().filter(|fill| fill.chars().count() == 1);
    fill.map(str::to_owned).ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidOperation,
            format!("str.{method} fills up with one character"),
        )
    })
}
