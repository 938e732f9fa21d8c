//! What became of the rows of a training file: counts, and messages that name the first rows of
//! each kind.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::rows::Place;
use crate::told::named;

/// What became of the rows of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    pub rows: usize,
    pub kept: usize,
    pub too_long: usize,
    pub truncated: usize,
    /// Where the first of these stand.
    pub truncated_first: Vec<Place>,
    /// Rows in which, perhaps after truncation, no token carries loss.
    pub unsupervised: usize,
    /// Rows kept in which a part that is trained on has no end of turn, before truncation: a model
    /// trained on such parts alone does not stop.
    pub endless: usize,
    /// Where the first of these stand.
    pub endless_first: Vec<Place>,
    pub tokens: usize,
    pub supervised_tokens: usize,
    pub longest: usize,
    /// Keys that nothing reads, the first ones, with the rows that have them.
    #[serde(default)]
    pub unread: BTreeMap<String, usize>,
    /// Fields of messages of which the template writes nothing, with the rows that have them.
    #[serde(default)]
    pub unwritten: BTreeMap<String, usize>,
}

impl Statistics {
    /// What surprises in the rows, which are called `what`: those that are kept and teach no end,
    /// and fields that the template does not write.
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
        .chain(self.unwritten.iter().map(|(field, count)| {
            format!(
                "warning: the template does not write `{field}`: {count} of {} {what}; where the model is to know it, set data.template to one that does",
                self.rows
            )
        }))
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
    fn a_warning_names_the_first_rows_and_no_rows_give_none() {
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
        let found = Statistics {
            rows: 9,
            unwritten: BTreeMap::from([("reasoning_content".into(), 4)]),
            ..Statistics::default()
        };
        let warnings = found.warnings("rows", 16);
        let told = "warning: the template does not write `reasoning_content`: 4 of 9 rows";
        assert!(
            warnings.len() == 1 && warnings[0].starts_with(told),
            "{warnings:?}"
        );
        assert_eq!(
            Statistics::default().warnings("rows", 16),
            Vec::<String>::new()
        );
    }
}
