//! A model and a run of round numbers.

use qlora_config::TrainingConfig;
use qlora_planner::{ModelShape, find};
use qlora_testkit::resolved;

pub const MIB: u64 = 1 << 20;

/// Mistral's: 32 blocks, 32 heads and 8 of keys, of 128; D is 4,096, F 14,336, V 32,768, with an
/// output layer of its own.
pub fn mistral() -> ModelShape {
    find("mistral-7b-instruct")
        .expect("an entry of the catalogue")
        .shape
}

/// One sequence of `tokens` tokens; adapters of rank 16 on attention, without dropout; blocks save
/// their inputs.
pub fn config(tokens: usize, set: &[&str]) -> TrainingConfig {
    let common = [
        "model.base=mistral-7b-instruct",
        "model.quantization=nf4",
        "data.train=rows.jsonl",
        "lora.r=16",
        "lora.dropout=0",
        "lora.target_modules=[q_proj,k_proj,v_proj,o_proj]",
        "training.micro_batch_size=1",
        "training.gradient_accumulation=1",
        "training.gradient_checkpointing=true",
    ];
    let length = format!("data.max_seq_len={tokens}");
    let set: Vec<&str> = [length.as_str()]
        .into_iter()
        .chain(set.iter().copied())
        .collect();
    resolved(&common, &set).config().clone()
}
