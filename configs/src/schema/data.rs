//! The section `data`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The rows, and how they become tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Required: rows to train on. JSON lines, a JSON array or Parquet, plain or gzip or Zstandard,
    /// or a folder of such files. A relative path in the file starts from its folder, one of `--set`
    /// or a variable from the current folder; `config put` stores whole paths.
    pub train: Option<String>,
    /// Held-out rows, in the same forms as `data.train`.
    pub eval: Option<String>,
    /// `auto` (the model's own), `chatml-tools`, the name of a template that the model's tokenizer
    /// has, such as `rag`, or Jinja text; anything else is refused.
    pub template: String,
    /// Today's date for templates that write one (`strftime_now`): the same in training, in
    /// evaluation and when the adapter is asked; recorded beside the adapter in
    /// `training_template.json`. The default is the date that Llama's templates fall back to.
    #[serde(default = "template_date")]
    #[schemars(extend("format" = "date"))]
    pub template_date: String,
    /// Tokens of a conversation; `data.too_long` says what happens to longer ones.
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

/// Which conversations share a forward pass. Attention never crosses from one into another, and none
/// is padded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Batching {
    /// `training.micro_batch_size` conversations, drawn at random.
    Shuffled,
    /// `training.micro_batch_size` conversations of similar length.
    Grouped,
    /// As many as fit into `training.micro_batch_size` times `data.max_seq_len` tokens.
    Packed,
}

/// What happens to a conversation of more than `data.max_seq_len` tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TooLong {
    /// It is left out, counted and reported.
    Skip,
    /// Its end is cut off.
    Truncate,
    /// The run is refused.
    Error,
}
