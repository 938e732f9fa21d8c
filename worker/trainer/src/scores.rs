//! What an evaluation finds.

use qlora_data::calls::Grade;
use serde::{Deserialize, Serialize};

use crate::any_number;

/// Shares of the rows whose wanted answer makes calls.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CallScores {
    pub rows: usize,
    pub valid_json: f64,
    pub schema_valid: f64,
    pub names_match: f64,
    pub exact_match: f64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    pub rows: usize,
    /// Rows that have more tokens than the model has positions.
    #[serde(default)]
    pub left_out: usize,
    /// Nats a token that is trained on.
    #[serde(with = "any_number")]
    pub loss: f64,
    #[serde(with = "any_number")]
    pub perplexity: f64,
    pub tokens: usize,
    /// Absent where no row makes calls.
    pub calls: Option<CallScores>,
}

impl CallScores {
    pub(crate) fn of(grades: &[Grade]) -> Self {
        let share = |least: Grade| {
            grades.iter().filter(|&&g| g >= least).count() as f64 / grades.len() as f64
        };
        Self {
            rows: grades.len(),
            valid_json: share(Grade::Json),
            schema_valid: share(Grade::Schema),
            names_match: share(Grade::Names),
            exact_match: share(Grade::Exact),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_counts_for_its_grade_and_for_all_below() {
        let grades = [
            Grade::Unreadable,
            Grade::Json,
            Grade::Schema,
            Grade::Names,
            Grade::Exact,
        ];
        let wanted = CallScores {
            rows: 5,
            valid_json: 0.8,
            schema_valid: 0.6,
            names_match: 0.4,
            exact_match: 0.2,
        };
        assert_eq!(CallScores::of(&grades), wanted);
    }
}
