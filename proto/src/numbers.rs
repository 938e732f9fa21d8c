//! Numbers as a person writes them on a command line, of every program. Who is refused is told what
//! is taken: the unit and the range.

use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::time::Duration;

/// Reads whole numbers within `range`; `what` they are, such as "a number of seconds", with its
/// unit.
///
/// # Errors
/// Of what it gives: the text is no such number.
pub fn whole<T: TryFrom<u64>>(
    what: &'static str,
    range: impl RangeBounds<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    let least = match range.start_bound() {
        Bound::Included(least) => *least,
        Bound::Excluded(below) => below.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let most = match range.end_bound() {
        Bound::Included(most) => *most,
        Bound::Excluded(above) => above.saturating_sub(1),
        Bound::Unbounded => u64::MAX,
    };
    move |text| {
        let number = text.parse().ok().filter(|n| (least..=most).contains(n));
        number.and_then(|n| T::try_from(n).ok()).ok_or_else(|| {
            // What is too long for a program is told the longest that it takes.
            let is_long = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            match most == u64::MAX && !(is_long && text.parse::<u64>().is_err()) {
                true => format!("write {what}, {least} or higher, in digits"),
                false => format!("write {what} from {least} to {most}, in digits"),
            }
        })
    }
}

/// Reads numbers within `range`, whole ones or others; `what` they are, with its unit.
///
/// # Errors
/// Of what it gives: the text is no such number.
pub fn decimal(
    what: &'static str,
    range: RangeInclusive<f64>,
) -> impl Fn(&str) -> Result<f64, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|n| range.contains(n));
        let (least, most) = (range.start(), range.end());
        number.ok_or_else(|| format!("write {what} from {least} to {most}"))
    }
}

/// Reads a span of time: a number and its unit, such as 30d.
///
/// # Errors
/// The text is no span, or an empty one.
pub fn span(text: &str) -> Result<Duration, String> {
    let units = [("d", 24 * 3600), ("h", 3600), ("m", 60), ("s", 1)];
    let found = units.iter().find_map(|(unit, seconds)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*seconds)
    });
    found
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs)
        .ok_or_else(|| "write a number, 1 or higher, and d, h, m or s, such as 30d".into())
}

/// Reads a number of bytes, with a unit or without.
///
/// # Errors
/// The text is no size.
pub fn size(text: &str) -> Result<u64, String> {
    let fault = || "write bytes with a unit or without, such as 500GB or 2TiB".to_owned();
    let is_of_number = |c: char| c.is_ascii_digit() || c == '.';
    let (number, unit) = text.split_at(text.find(|c: char| !is_of_number(c)).unwrap_or(text.len()));
    let unit: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(fault()),
    };
    match number.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok((number * unit as f64) as u64),
        _ => Err(fault()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_is_taken_within_its_range_which_a_refusal_tells() {
        let steps = whole::<usize>("a number of steps", 1..);
        let port = whole::<u16>("a port", 0..=65_535);
        assert_eq!((steps("1"), steps("17")), (Ok(1), Ok(17)));
        assert_eq!((port("0"), port("65535")), (Ok(0), Ok(65_535)));
        for text in ["", "x", "0", "-1", "1.5", "1e3", " 1", "1 "] {
            let fault = steps(text).expect_err(text);
            assert_eq!(fault, "write a number of steps, 1 or higher, in digits");
        }
        for text in ["", "65536", "-1", "99999999999999999999"] {
            let fault = port(text).expect_err(text);
            assert_eq!(fault, "write a port from 0 to 65535, in digits", "{text}");
        }
        let fault = steps("18446744073709551616").expect_err("a number of 65 bits");
        assert!(fault.contains("from 1 to 18446744073709551615"), "{fault}");
    }

    #[test]
    fn a_decimal_number_is_taken_within_its_range_which_a_refusal_tells() {
        let lease = decimal("a number of seconds", 1.0..=3600.0);
        for (text, seconds) in [("1", 1.0), ("2.5", 2.5), ("3600", 3600.0)] {
            assert_eq!(lease(text), Ok(seconds));
        }
        for text in ["", "x", "0.9", "3601", "-1", "inf", "NaN"] {
            let fault = lease(text).expect_err(text);
            assert_eq!(fault, "write a number of seconds from 1 to 3600", "{text}");
        }
    }

    #[test]
    fn a_span_is_a_number_and_a_unit() {
        for (text, seconds) in [
            ("30d", 2_592_000),
            ("12h", 43_200),
            ("90m", 5400),
            ("1s", 1),
        ] {
            assert_eq!(span(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "30",
            "d",
            "0d",
            "-1d",
            "1.5h",
            "30 d",
            "1w",
            "999999999999999999d",
        ] {
            assert!(span(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes_have_units_or_none() {
        let sizes = [
            ("0", 0),
            ("1500", 1_500),
            ("1.5 kB", 1_500),
            ("2GB", 2_000_000_000),
            ("2TiB", 2 << 40),
        ];
        for (text, bytes) in sizes {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GB", "-1", "1gb", "1.2.3", "1 G B", "1e9"] {
            assert!(
                size(text).is_err_and(|fault| fault.contains("500GB")),
                "{text}"
            );
        }
    }
}
