//! `qlora-worker logits`: what a model says of a fixed sequence, for comparing with other programs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use qlora_client::console;
use qlora_config::{Compute, ModelConfig, Quantization};
use qlora_trainer::bench::{self, Logits};

use crate::error::WorkerError;
use crate::output::print_json;

/// Writes `ids` [T] and `logits` [T, V] of `model` with `adapter` to `out`.
pub fn run(model: &Path, adapter: Option<&Path>, out: &PathBuf, as_json: bool) -> Result<ExitCode, WorkerError> {
    let quantization = if model.is_dir() { Quantization::None } else { Quantization::Gguf };
    let config = ModelConfig::held_as(quantization, Compute::F32);
    let Logits { ids, logits, notes } = bench::logits(model, &config, adapter)?;
    notes.iter().for_each(|note| console::note(&format!("warning: {note}")));
    let tensors = HashMap::from([("ids".to_owned(), ids), ("logits".to_owned(), logits)]);
    // Beside the file first: what stands under its name is whole.
    let mut partial = out.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = candle_core::safetensors::save(&tensors, &partial);
    let named = written.map_err(qlora_trainer::Error::from).map_err(WorkerError::from);
    let named = named.and_then(|()| std::fs::rename(&partial, out).map_err(WorkerError::io(out)));
    if named.is_err() {
        // The error that is already there says why.
        drop(std::fs::remove_file(&partial));
    }
    named?;
    if as_json {
        print_json(&serde_json::json!({"v": 1, "out": out}))?;
    }
    Ok(ExitCode::SUCCESS)
}
