//! `qlora-worker logits`: what a model says of a fixed sequence, for comparing with other programs.

use std::collections::HashMap;
use std::path::Path;
use std::process::ExitCode;

use qlora_client::console;
use qlora_config::{Compute, ModelConfig, Quantization};
use qlora_trainer::bench::{self, Logits};
use qlora_trainer::partial;

use crate::error::WorkerError;
use crate::output::{placed, print_json};

/// Writes `ids` [T] and `logits` [T, V] of `model` with `adapter` to `out`.
pub fn run(
    model: &Path,
    adapter: Option<&Path>,
    out: &Path,
    as_json: bool,
) -> Result<ExitCode, WorkerError> {
    placed(out)?;
    let quantization = if model.is_dir() {
        Quantization::None
    } else {
        Quantization::Gguf
    };
    let config = ModelConfig::held_as(quantization, Compute::F32);
    let Logits { ids, logits, notes } = bench::logits(model, &config, adapter)?;
    notes
        .iter()
        .for_each(|note| console::note(&format!("warning: {note}")));
    let tensors = HashMap::from([("ids".to_owned(), ids), ("logits".to_owned(), logits)]);
    partial::write_tensors(out, tensors, None).map_err(WorkerError::io(out))?;
    if as_json {
        print_json(&serde_json::json!({"v": 1, "out": out}))?;
    }
    Ok(ExitCode::SUCCESS)
}
