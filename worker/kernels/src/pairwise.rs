//! Sums in an order that depends only on the number of addends.

use std::ops::Range;

/// What `leaf` gives for every index of `range`, which is not empty, added half by half.
///
/// Where a power of two of workers, which divides the range, each add up a part, and then add their
/// sums in the same way, the result has the same bits as that of one worker: floating point is not
/// associative, and here nothing is associated otherwise.
///
/// # Errors
/// Those of `leaf` and `add`.
pub fn pairwise<T, E>(
    range: Range<usize>,
    leaf: &mut impl FnMut(usize) -> Result<T, E>,
    add: &mut impl FnMut(T, T) -> Result<T, E>,
) -> Result<T, E> {
    if range.len() <= 1 {
        return leaf(range.start);
    }
    let middle = range.start + range.len().div_ceil(2);
    let first = pairwise(range.start..middle, leaf, add)?;
    let second = pairwise(middle..range.end, leaf, add)?;
    add(first, second)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// A sum as text, which shows its brackets.
    fn text(range: Range<usize>, leaf: impl Fn(usize) -> String) -> String {
        let added = |a: String, b: String| Ok::<_, Infallible>(format!("({a}+{b})"));
        match pairwise(range, &mut |i| Ok(leaf(i)), &mut { added }) {
            Ok(text) => text,
            Err(never) => match never {},
        }
    }

    #[test]
    fn parts_of_workers_are_parts_of_the_whole_sum() {
        for (numbers, workers) in [
            (8, 1),
            (8, 2),
            (8, 4),
            (8, 8),
            (12, 2),
            (12, 4),
            (6, 2),
            (2, 2),
        ] {
            let each = numbers / workers;
            let part = |rank: usize| text(rank * each..(rank + 1) * each, |i| i.to_string());
            assert_eq!(
                text(0..workers, part),
                text(0..numbers, |i| i.to_string()),
                "{numbers} by {workers}"
            );
        }
        assert_eq!(text(0..5, |i| i.to_string()), "(((0+1)+2)+(3+4))");
    }
}
