//! Numbers in words, the same on every screen.

/// `1 row`, `2 rows`: a number with its noun.
pub fn count(n: u64, noun: &str) -> String {
    if n == 1 {
        format!("1 {noun}")
    } else {
        format!("{n} {noun}s")
    }
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

/// The size of a file: `340 B`, `1.5 kB`, `12 MB`, `3.4 GB`.
pub fn bytes(n: u64) -> String {
    match n {
        0..1_000 => format!("{n} B"),
        1_000..999_950 => format!("{:.1} kB", n as f64 / 1e3),
        999_950..999_500_000 => format!("{:.0} MB", n as f64 / 1e6),
        _ => format!("{:.1} GB", n as f64 / 1e9),
    }
}

/// Memory of a machine or a device: `7.6 GiB`.
pub fn gib(n: u64) -> String {
    format!("{:.1} GiB", n as f64 / (1u64 << 30) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many() {
        assert_eq!(
            ["0 rows", "1 row", "2 rows"],
            [0, 1, 2].map(|n| count(n, "row"))
        );
    }

    #[test]
    fn sizes_are_rounded_before_their_unit_is_chosen() {
        let said = [
            0,
            999,
            1_000,
            999_949,
            999_950,
            999_499_999,
            999_500_000,
            3_400_000_000,
        ]
        .map(bytes);
        assert_eq!(
            said,
            [
                "0 B", "999 B", "1.0 kB", "999.9 kB", "1 MB", "999 MB", "1.0 GB", "3.4 GB"
            ]
        );
    }

    #[test]
    fn times_are_rounded_before_they_are_split() {
        let said = [0.0, 59.4, 59.6, 3599.4, 3599.6, 7260.0].map(duration);
        assert_eq!(
            said,
            [
                "0 s",
                "59 s",
                "1 min 00 s",
                "59 min 59 s",
                "1 h 00 min",
                "2 h 01 min"
            ]
        );
    }
}
