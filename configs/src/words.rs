//! Numbers with their nouns.

/// `1 step`, `2 steps`.
pub(crate) fn count(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}
