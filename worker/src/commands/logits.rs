use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use qlora_client::console;
use qlora_config::{Compute, ModelConfig, Quantization};
use qlora_trainer::bench;
use qlora_trainer::partial;
use serde_json::json;

use crate::error::WorkerError;
use crate::output::{placed, print_json};

/// Writes the logits of a fixed sequence, for comparing with other programs.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Logits {
    /// Hugging Face folder or .gguf file.
    #[arg(long)]
    model: PathBuf,
    /// Adapter folder.
    #[arg(long)]
    adapter: Option<PathBuf>,
    /// Safetensors file to write.
    #[arg(long)]
    out: PathBuf,
}

const EXAMPLE: &str = "Example:
  qlora-worker logits --model models/tiny --out logits.safetensors";

impl Logits {
    /// Writes `ids` [T] and `logits` [T, V].
    pub fn run(&self, as_json: bool) -> Result<ExitCode, WorkerError> {
        placed(&self.out)?;
        let quantization = if self.model.is_dir() {
            Quantization::None
        } else {
            Quantization::Gguf
        };
        let config = ModelConfig::held_as(quantization, Compute::F32);
        let found = bench::logits(&self.model, &config, self.adapter.as_deref())?;
        found
            .notes
            .iter()
            .for_each(|note| console::note(&format!("warning: {note}")));
        let tensors = HashMap::from([
            ("ids".to_owned(), found.ids),
            ("logits".to_owned(), found.logits),
        ]);
        partial::write_tensors(&self.out, tensors, None).map_err(WorkerError::io(&self.out))?;
        if as_json {
            print_json(&json!({"v": 1, "out": self.out}))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
