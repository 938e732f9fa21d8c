//! What a run works on.

use std::path::PathBuf;

use qlora_config::{ResolvedConfig, TrainingConfig};

/// What a run works on; every path exists.
#[derive(Debug, Clone)]
pub struct Run {
    pub config: ResolvedConfig,
    /// A Hugging Face folder or a GGUF file.
    pub model: PathBuf,
    pub train: PathBuf,
    pub eval: Option<PathBuf>,
    /// Checkpoints and the final adapter go here.
    pub output: PathBuf,
    /// A checkpoint to go on from.
    pub resume: Option<PathBuf>,
    /// Where tokenized rows are kept for the next run; nowhere where there is none.
    pub tokens: Option<PathBuf>,
}

impl Run {
    pub(super) fn config(&self) -> &TrainingConfig {
        self.config.config()
    }
}
