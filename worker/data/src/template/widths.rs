//! How wide the values are that a text is filled with. A few digits of a template ask for
//! gigabytes within one step, so that no count of steps holds them back.

use minijinja::{Error, ErrorKind};

/// Characters that all places of a text may ask for together; as many as `str.ljust` and `indent`
/// may add.
const WIDEST: usize = 1_000_000;

/// What the places of a text have asked for so far.
struct Asked<'a> {
    /// How the template calls what fills the text.
    by: &'a str,
    total: usize,
}

/// Refuses a text for Python's `%` whose places are too wide.
pub(super) fn check_printf(text: &str, by: &str) -> Result<(), Error> {
    let mut asked = Asked { by, total: 0 };
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        rest = &rest[at + 1..];
        if let Some(behind) = rest.strip_prefix('%') {
            rest = behind;
            continue;
        }
        // The name of a value may hold digits.
        if rest.starts_with('(') {
            rest = rest.find(')').map_or("", |end| &rest[end + 1..]);
        }
        asked.add(rest.trim_start_matches(['#', '0', '-', ' ', '+']))?;
    }
    Ok(())
}

/// Refuses a text for `str.format` whose places are too wide.
pub(super) fn check_format(text: &str) -> Result<(), Error> {
    let mut asked = Asked {
        by: "str.format",
        total: 0,
    };
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        rest = &rest[at + 1..];
        if let Some(behind) = rest.strip_prefix('{') {
            rest = behind;
            continue;
        }
        let Some(end) = rest.find([':', '}']) else {
            break;
        };
        if !rest[end..].starts_with(':') {
            continue;
        }
        rest = &rest[end + 1..];
        let spec = aligned(rest).trim_start_matches(['+', '-', ' ', '#', '0']);
        asked.add(spec)?;
    }
    Ok(())
}

/// `spec` behind its alignment, and behind the character to fill with, which may be a digit.
fn aligned(spec: &str) -> &str {
    let is_align = |c: char| matches!(c, '<' | '>' | '^' | '=');
    let mut chars = spec.chars();
    match (chars.next(), chars.next()) {
        (Some(_), Some(second)) if is_align(second) => chars.as_str(),
        (Some(first), _) if is_align(first) => &spec[first.len_utf8()..],
        _ => spec,
    }
}

impl Asked<'_> {
    /// Adds the width and the precision that `spec` begins with.
    fn add(&mut self, spec: &str) -> Result<(), Error> {
        let (width, behind) = number(spec);
        let behind = behind.trim_start_matches([',', '_']);
        let precision = behind
            .strip_prefix('.')
            .map_or(0, |digits| number(digits).0);
        self.total = self.total.saturating_add(width).saturating_add(precision);
        check(self.total, self.by)
    }
}

/// Refuses `by` to add more than [`WIDEST`] characters to a text.
pub(super) fn check(characters: usize, by: &str) -> Result<(), Error> {
    if characters > WIDEST {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("{by} to more than a million characters"),
        ));
    }
    Ok(())
}

/// The number that `text` begins with, 0 where there is none, and what stands behind it.
fn number(text: &str) -> (usize, &str) {
    let behind = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = &text[..text.len() - behind.len()];
    let number = match digits {
        "" => 0,
        digits => digits.parse().unwrap_or(usize::MAX),
    };
    (number, behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_may_be_as_wide_as_a_million_characters_together() {
        for text in [
            "%s %5d %-999995s",
            "100%% of 99999999999",
            "%(a99999999)s",
            "%.70000f",
            "no place",
            "%",
            "%(open",
        ] {
            assert!(check_printf(text, "`%`").is_ok(), "{text}");
        }
        for text in [
            "%0200000000d",
            "%-99999999999999999999s",
            "%1000000s%s%1s",
            "%%%2000000d",
            "%(a)2000000d",
            "%.2000000f",
        ] {
            let fault = check_printf(text, "`%`").expect_err(text).to_string();
            assert!(fault.contains("`%` "), "{fault}");
        }
    }

    #[test]
    fn places_of_format_are_counted_as_those_of_percent() {
        for text in [
            "{} {a} {0} {{:99999999}}",
            "{:9>5}",
            "{a[99999999]}",
            "{:>1000000}",
            "{:,.2f}",
            "{:.70000f}",
            "{",
            "{:",
        ] {
            assert!(check_format(text).is_ok(), "{text}");
        }
        for text in [
            "{:>2000000000}",
            "{a:x^2000000}",
            "{:02000000d}",
            "{:,.2000000f}",
            "{:=+#2000000}",
            "{:500000}{:500001}",
        ] {
            let fault = check_format(text).expect_err(text).to_string();
            assert!(fault.contains("str.format "), "{fault}");
        }
    }
}
