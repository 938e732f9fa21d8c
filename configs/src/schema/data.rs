//! The section `data`.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// JSONL file of conversations to learn from; relative paths start at the config file.
    pub train: Option<String>,
    /// JSONL file of held-out conversations.
    pub eval: Option<String>,
    /// `auto` (the model's own), `chatml-tools`, the name of one of the model's, or Jinja text.
    pub template: String,
    /// The date of today that templates which write one are given, as `2024-07-26`: in training, in
    /// evaluation, and when the adapter is asked.
    #[serde(default = "template_date")]
    pub template_date: String,
    /// Tokens; longer conversations are treated as `too_long` says.
    pub max_seq_len: usize,
    pub too_long: TooLong,
    pub batching: Batching,
}

/// What templates of Llama write where they are given no date; configurations recorded before the
/// key was there have it.
pub const TEMPLATE_DATE: &str = "2024-07-26";

fn template_date() -> String {
    TEMPLATE_DATE.into()
}

/// Which conversations share a forward pass; attention never crosses from one into another, and
/// none is padded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Batching {
    /// `training.micro_batch_size` conversations, drawn at random.
    Shuffled,
    /// `training.micro_batch_size` conversations of similar length.
    Grouped,
    /// As many as fit into `training.micro_batch_size` times `data.max_seq_len` tokens.
    Packed,
}

/// What happens to a conversation of more than `max_seq_len` tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TooLong {
    /// It is left out, counted and reported.
    Skip,
    /// Its end is cut off.
    Truncate,
    /// The run is refused.
    Error,
}
