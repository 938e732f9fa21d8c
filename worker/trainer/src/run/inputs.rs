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
    /// The folder that keeps tokenized rows for the next run. Without it they are not kept.
    pub tokens: Option<PathBuf>,
}

impl Run {
    pub(super) fn config(&self) -> &TrainingConfig {
        self.config.config()
    }
}
