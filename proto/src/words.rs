//! Numbers in the words of screens, the same on every one.

/// `1 row`, `2 rows`: a number with its noun.
pub fn count(n: u64, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// A time, to the second below an hour: `5 s`, `6 min 00 s`, `1 h 05 min`.
pub fn duration(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        _ => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many() {
        assert_eq!(["0 rows", "1 row", "2 rows"], [0, 1, 2].map(|n| count(n, "row")));
    }

    #[test]
    fn times_are_rounded_before_they_are_split() {
        let said = [0.0, 59.4, 59.6, 3599.4, 3599.6, 7260.0].map(duration);
        assert_eq!(said, ["0 s", "59 s", "1 min 00 s", "59 min 59 s", "1 h 00 min", "2 h 01 min"]);
    }
}
