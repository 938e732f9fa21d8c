//! What a job has reported of itself.

use serde::{Deserialize, Serialize};

use crate::number;

/// The last values that were reported.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    pub phase: String,
    pub phase_done: u64,
    pub phase_of: u64,
    pub step: u64,
    pub steps: u64,
    #[serde(with = "number::optional")]
    pub loss: Option<f64>,
    #[serde(with = "number::optional")]
    pub learning_rate: Option<f64>,
    #[serde(with = "number::optional")]
    pub tokens_per_second: Option<f64>,
    #[serde(with = "number::optional")]
    pub first_evaluation: Option<f64>,
    #[serde(with = "number::optional")]
    pub last_evaluation: Option<f64>,
    #[serde(with = "number::optional")]
    pub seconds_left: Option<f64>,
    pub peak_bytes: u64,
    pub samples: Vec<Sample>,
    /// What an evaluation has found.
    pub scores: Option<Scores>,
}

/// How well a model does on rows that it was not trained on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Scores {
    pub rows: u64,
    pub tokens: u64,
    /// Nats a token.
    #[serde(with = "number")]
    pub loss: f64,
    #[serde(with = "number")]
    pub perplexity: f64,
    pub calls: Option<CallScores>,
}

/// Shares of the rows that make calls.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct CallScores {
    pub rows: u64,
    #[serde(with = "number")]
    pub valid_json: f64,
    #[serde(with = "number")]
    pub schema_valid: f64,
    #[serde(with = "number")]
    pub names_match: f64,
    #[serde(with = "number")]
    pub exact_match: f64,
}

/// A held-out question and the answer of the model after `step` steps.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Sample {
    pub step: u64,
    pub prompt: String,
    pub wanted: String,
    pub answer: String,
}
