//! What a number of the configuration may be: as a check, in words and as JSON Schema.

use serde_json::{Map, Value, json};

/// The values that a number may have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Limits {
    /// This or more.
    From(f64),
    /// Between both, or one of them.
    Within(f64, f64),
    /// The first or more, less than the second.
    Below(f64, f64),
    /// More than the first, at most the second.
    UpTo(f64, f64),
    /// A power of two between both, or one of them.
    PowerOfTwo(u64, u64),
}

impl Limits {
    pub fn hold(self, value: f64) -> bool {
        value.is_finite()
            && match self {
                Self::From(low) => value >= low,
                Self::Within(low, high) => (low..=high).contains(&value),
                Self::Below(low, high) => (low..high).contains(&value),
                Self::UpTo(low, high) => value > low && value <= high,
                Self::PowerOfTwo(low, high) => {
                    powers_of_two(low, high).any(|power| power as f64 == value)
                }
            }
    }

    /// What follows `is 3, ` where 3 is `value` and the `f32` that stands for it in a run is 0, is
    /// infinite, or is an end that no value may reach.
    pub fn lost_in_single(self, value: f64) -> Option<String> {
        let single = value as f32;
        let fault = match self {
            // Devices take what is smaller than that for 0.
            _ if value != 0.0 && single.abs() < f32::MIN_POSITIVE => "too near 0 for".into(),
            _ if single.is_infinite() => "too large for".into(),
            Self::Below(_, high) if f64::from(single) >= high => {
                format!("which is {} in", plain(high))
            }
            _ => return None,
        };
        Some(format!("{fault} the single precision of a run"))
    }

    /// What follows `is 3, ` where 3 is `value` and not such a one.
    pub fn fault(self, value: f64, unit: &str) -> String {
        match self {
            Self::From(low) => format!("below {}", plain(low)),
            Self::UpTo(_, high) if value > high => format!("above {}", plain(high)),
            Self::UpTo(low, _) => format!("not above {}", plain(low)),
            Self::PowerOfTwo(..) => format!("not a {}", self.words()),
            Self::Within(..) | Self::Below(..) => {
                format!("outside {} {unit}", self.words()).trim_end().into()
            }
        }
    }

    /// Such as `1 to 1024`.
    pub fn words(self) -> String {
        match self {
            Self::From(low) => format!("{} or more", plain(low)),
            Self::Within(low, high) => format!("{} to {}", plain(low), plain(high)),
            Self::Below(low, high) => format!("{} to below {}", plain(low), plain(high)),
            Self::UpTo(low, high) => format!("more than {}, at most {}", plain(low), plain(high)),
            Self::PowerOfTwo(low, high) => {
                let [low, high] = [low, high].map(|end| plain(end as f64));
                format!("power of two from {low} to {high}")
            }
        }
    }

    /// The keywords of JSON Schema that say the same.
    pub fn keywords(self) -> Map<String, Value> {
        let said = match self {
            Self::From(low) => json!({"minimum": number(low)}),
            Self::Within(low, high) => json!({"minimum": number(low), "maximum": number(high)}),
            Self::Below(low, high) => {
                json!({"minimum": number(low), "exclusiveMaximum": number(high)})
            }
            Self::UpTo(low, high) => {
                json!({"exclusiveMinimum": number(low), "maximum": number(high)})
            }
            Self::PowerOfTwo(low, high) => {
                json!({"enum": powers_of_two(low, high).collect::<Vec<_>>()})
            }
        };
        match said {
            Value::Object(keywords) => keywords,
            _ => Map::new(),
        }
    }
}

fn powers_of_two(low: u64, high: u64) -> impl Iterator<Item = u64> {
    (0..u64::BITS)
        .map(|exponent| 1 << exponent)
        .filter(move |power| (low..=high).contains(power))
}

/// A whole number where it is one.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 {
        json!(value as i64)
    } else {
        json!(value)
    }
}

/// With commas from five digits on.
fn plain(value: f64) -> String {
    let text = value.to_string();
    if text.len() < 5 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return text;
    }
    let groups: Vec<&str> = text
        .as_bytes()
        .rchunks(3)
        .rev()
        .filter_map(|group| std::str::from_utf8(group).ok())
        .collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_five_digits_have_commas() {
        for (value, text) in [
            (0.0, "0"),
            (0.5, "0.5"),
            (4096.0, "4096"),
            (65_536.0, "65,536"),
            (1_048_576.0, "1,048,576"),
        ] {
            assert_eq!(plain(value), text);
        }
    }

    #[test]
    fn what_single_precision_loses_is_found() {
        let share = Limits::Below(0.0, 1.0);
        for lost in [1e-46, 1e-40, 1e-300, 0.999_999_999_99, 1.0 - f64::EPSILON] {
            assert!(share.lost_in_single(lost).is_some(), "{lost}");
        }
        for kept in [0.0, 1e-30, 0.05, 0.999, 0.999_999] {
            assert_eq!(share.lost_in_single(kept), None, "{kept}");
        }
        let any = Limits::From(0.0);
        for lost in [1e39, 1e300, f64::MAX] {
            assert!(any.lost_in_single(lost).is_some(), "{lost}");
        }
        assert_eq!(any.lost_in_single(1.0 - f64::EPSILON), None);
    }

    #[test]
    fn no_limit_holds_what_is_no_number() {
        for limits in [
            Limits::From(0.0),
            Limits::Within(0.0, 1.0),
            Limits::Below(0.0, 1.0),
            Limits::UpTo(0.0, 1.0),
            Limits::PowerOfTwo(1, 64),
        ] {
            for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                assert!(!limits.hold(value), "{limits:?} {value}");
            }
        }
    }
}
