//! Toy models that tests change: the golden Llama with a tokenizer, whose tables have a row for
//! each token.

#![allow(dead_code)] // Each test binary uses a part.

pub mod gguf;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use qlora_config::ModelConfig;
pub use qlora_testkit::golden;
use qlora_testkit::{golden_json, resolved};
use qlora_trainer::bench;
use serde_json::{Value, json};

pub const VOCABULARY: usize = 900;
/// The golden Llama's sizes.
pub const HIDDEN: usize = 64;
pub const LAYERS: usize = 2;

pub type Tensors = HashMap<String, Tensor>;

pub fn config() -> Value {
    let mut config = golden_json("tiny_llama/config.json");
    config["vocab_size"] = VOCABULARY.into();
    config
}

pub fn tensors() -> Tensors {
    let mut tensors =
        candle_core::safetensors::load(golden("tiny_llama/model.safetensors"), &Device::Cpu)
            .expect("weights");
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        let table = &tensors[name];
        let longer = Tensor::cat(&[table, table, table, table], 0)
            .and_then(|t| t.narrow(0, 0, VOCABULARY)?.contiguous());
        tensors.insert(name.into(), longer.expect("a table"));
    }
    tensors
}

pub fn save(tensors: &Tensors, path: &Path) {
    candle_core::safetensors::save(tensors, path).expect("a file of tensors");
}

/// A folder without weights.
pub fn bare(folder: &Path, config: &Value) -> PathBuf {
    fs::create_dir_all(folder).expect("a folder");
    fs::write(folder.join("config.json"), config.to_string()).expect("a configuration");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(golden("chat/tokenizer").join(name), folder.join(name)).expect("a tokenizer");
    }
    folder.into()
}

pub fn model(folder: &Path, config: &Value, tensors: &Tensors) -> PathBuf {
    bare(folder, config);
    save(tensors, &folder.join("model.safetensors"));
    folder.into()
}

/// The tensors in files named after `parts`, with an index.
pub fn sharded(folder: &Path, tensors: &Tensors, parts: &[&str]) -> PathBuf {
    bare(folder, &config());
    let mut names: Vec<&String> = tensors.keys().collect();
    names.sort();
    let mut places = serde_json::Map::new();
    for (part, names) in parts
        .iter()
        .zip(names.chunks(names.len().div_ceil(parts.len())))
    {
        let held: Tensors = names
            .iter()
            .map(|name| ((*name).clone(), tensors[*name].clone()))
            .collect();
        save(&held, &folder.join(part));
        places.extend(names.iter().map(|name| ((*name).clone(), json!(part))));
    }
    let index = json!({"metadata": {}, "weight_map": places});
    fs::write(
        folder.join("model.safetensors.index.json"),
        index.to_string(),
    )
    .expect("an index");
    folder.into()
}

pub fn held_as(quantization: &str) -> ModelConfig {
    let set = [
        "model.base=toy",
        "data.train=rows.jsonl",
        "model.compute=f32",
        &format!("model.quantization={quantization}"),
    ];
    resolved(&[], &set).config().model.clone()
}

/// Logits of a fixed sequence, and what a person hears.
pub fn logits(model: &Path, adapter: Option<&Path>) -> Result<(Vec<f32>, Vec<String>), String> {
    let quantization = if model.is_dir() { "none" } else { "gguf" };
    let found = bench::logits(model, &held_as(quantization), adapter).map_err(|e| e.to_string())?;
    let values = found
        .logits
        .flatten_all()
        .and_then(|t| t.to_vec1())
        .expect("logits");
    Ok((values, found.notes))
}

#[track_caller]
pub fn values(model: &Path, adapter: Option<&Path>) -> Vec<f32> {
    logits(model, adapter).expect("logits").0
}

/// The refusal of `model`, which has all of `words`.
#[track_caller]
pub fn refused(model: &Path, adapter: Option<&Path>, words: &[&str]) -> String {
    let fault = logits(model, adapter)
        .map(|_| ())
        .expect_err("it was taken");
    assert!(words.iter().all(|word| fault.contains(word)), "{fault}");
    fault
}

/// `bytes` with the first `from` replaced by `to`, of the same length.
pub fn patched(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = bytes
        .windows(from.len())
        .position(|part| part == from)
        .expect("a place");
    let mut changed = bytes.to_vec();
    changed[at..at + to.len()].copy_from_slice(to);
    changed
}

pub fn differ(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

pub fn ones(dims: &[usize], value: f64) -> Tensor {
    Tensor::ones(dims, candle_core::DType::F32, &Device::Cpu)
        .and_then(|t| t * value)
        .expect("a tensor")
}
