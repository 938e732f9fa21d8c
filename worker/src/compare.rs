//! `qlora-worker logits`: what a model says of a fixed sequence, for comparing with other programs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use qlora_client::console;
use qlora_config::{Compute, ModelConfig, Quantization};
use qlora_trainer::bench::{self, Logits};

use crate::error::WorkerError;

/// Writes `ids` [T] and `logits` [T, V] of `model` with `adapter` to `out`.
pub fn run(model: &Path, adapter: Option<&Path>, out: &PathBuf) -> Result<ExitCode, WorkerError> {
    let quantization = if model.is_dir() { Quantization::None } else { Quantization::Gguf };
    let config = ModelConfig::held_as(quantization, Compute::F32);
    let Logits { ids, logits, notes } = bench::logits(model, &config, adapter)?;
    notes.iter().for_each(|note| console::note(&format!("warning: {note}")));
    let tensors = HashMap::from([("ids".to_owned(), ids), ("logits".to_owned(), logits)]);
    candle_core::safetensors::save(&tensors, out).map_err(qlora_trainer::Error::from)?;
    Ok(ExitCode::SUCCESS)
}
