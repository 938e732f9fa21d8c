//! What became of rows, in words that name the first of them.

use crate::dataset::Statistics;
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

impl Statistics {
    /// What surprises in the rows that are kept, and which they are; `what` they are called.
    pub fn warnings(&self, what: &str, limit: usize) -> Vec<String> {
        let cut = format!("are cut to data.max_seq_len {limit} tokens and do not teach their ends");
        let endless =
            "teach no end of turn, and a model that is trained on such rows alone does not stop";
        [
            (
                self.truncated,
                self.rows,
                &self.truncated_first,
                cut.as_str(),
                "raise data.max_seq_len, or set data.too_long: skip",
            ),
            (
                self.endless,
                self.kept,
                &self.endless_first,
                endless,
                "qlora-ctl data check --model shows why",
            ),
        ]
        .into_iter()
        .filter(|(count, ..)| *count > 0)
        .map(|(count, of, first, fault, help)| {
            format!(
                "warning: {count} of {of} {what} {fault}: {}; {help}",
                named(first, count)
            )
        })
        .collect()
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
        let found = Statistics {
            rows: 9,
            kept: 9,
            truncated: 2,
            truncated_first: vec![place(3), place(8)],
            ..Statistics::default()
        };
        let warnings = found.warnings("rows", 16);
        assert!(
            warnings.len() == 1
                && warnings[0].contains("2 of 9 rows are cut")
                && warnings[0].contains("f:3, f:8;"),
            "{warnings:?}"
        );
        assert_eq!(
            Statistics::default().warnings("rows", 16),
            Vec::<String>::new()
        );
    }
}
