//! The first rows of a kind, kept and named; the others are counted.

use crate::rows::Place;

/// Rows of one kind that are named; the others are counted.
pub(crate) const NAMED: usize = 5;

/// Keeps `place` if it is one of the first.
pub(crate) fn note(first: &mut Vec<Place>, place: &Place) {
    if first.len() < NAMED {
        first.push(place.clone());
    }
}

/// Where the `first` of `count` rows stand: `f.jsonl:3, f.jsonl:8 and 4 more`.
pub fn named(first: &[Place], count: usize) -> String {
    let places: Vec<String> = first.iter().map(ToString::to_string).collect();
    let more = count.saturating_sub(first.len());
    places.join(", ")
        + &if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(line: usize) -> Place {
        Place {
            file: "f".into(),
            line,
        }
    }

    #[test]
    fn the_first_rows_are_named_and_the_others_counted() {
        let mut first = Vec::new();
        (1..=9).for_each(|line| note(&mut first, &place(line)));
        assert_eq!(named(&first, 9), "f:1, f:2, f:3, f:4, f:5 and 4 more");
        assert_eq!(named(&[place(7)], 1), "f:7");
    }
}
