//! Logits of whole models, padded or not, with a window or without.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use qlora_planner::MemoryPolicy;
use qlora_trainer::lora::Adapters;
use qlora_trainer::model::{Batch, Decoder};
use qlora_trainer::weights::Checkpoint;

use crate::{
    config, decoder, golden, largest_difference, loaded, row, tensors, unlabeled, untrained,
};

fn logits_agree(folder: &str) {
    let config = config(&["model.quantization=none"]);
    let decoder = decoder(folder, &config);
    let adapters = untrained(&decoder, &config);
    let wanted = tensors(&format!("{folder}/logits.safetensors"));
    for i in 0..2 {
        let sample = unlabeled(&row(&wanted["full.input_ids"], i));
        let logits = decoder
            .logits(&Batch::pack([&sample]), &adapters)
            .expect("logits");
        let difference = largest_difference(&logits, &wanted["full.logits"].get(i).expect("a row"));
        println!("parity: {folder} row {i}, logits {difference:.1e}");
        assert!(difference < 5e-5, "{folder} row {i}: {difference}");
    }
    for side in ["left_pad", "right_pad"] {
        padded_row_agrees(&decoder, &adapters, &wanted, side);
    }
}

/// Only row 1 is padded; its real tokens are compared.
fn padded_row_agrees(
    decoder: &Decoder,
    adapters: &Adapters,
    wanted: &HashMap<String, Tensor>,
    side: &str,
) {
    let mask = row(&wanted[&format!("{side}.attention_mask")], 1);
    let ids = row(&wanted[&format!("{side}.input_ids")], 1);
    let start = mask.iter().position(|&m| m == 1).expect("a real token");
    let length = mask.iter().filter(|&&m| m == 1).count();
    let sample = unlabeled(&ids[start..start + length]);
    let logits = decoder
        .logits(&Batch::pack([&sample]), adapters)
        .expect("logits");
    let reference = wanted[&format!("{side}.logits")]
        .narrow(0, start, length)
        .expect("real rows");
    let difference = largest_difference(&logits, &reference);
    assert!(difference < 5e-5, "{side}: {difference}");
}

#[test]
fn tiny_llama_gives_the_logits_of_transformers() {
    logits_agree("tiny_llama");
}

#[test]
fn tiny_mistral_gives_the_logits_of_transformers() {
    logits_agree("tiny_mistral");
}

#[test]
fn tiny_mistral_with_a_window_gives_the_logits_of_transformers() {
    // The folder holds only a configuration; its weights are tiny_mistral's.
    let folder = tempfile::tempdir().expect("a folder");
    for (from, name) in [
        ("tiny_mistral_sw8", "config.json"),
        ("tiny_mistral", "model.safetensors"),
    ] {
        std::fs::copy(golden(from).join(name), folder.path().join(name)).expect("a copy");
    }
    let config = config(&["model.quantization=none"]);
    let checkpoint = Checkpoint::open(folder.path()).expect("a checkpoint");
    assert_eq!(checkpoint.files.shape.sliding_window, Some(8));
    let decoder = loaded(&Device::Cpu, &checkpoint, &config, &MemoryPolicy::default());
    let adapters = untrained(&decoder, &config);
    let wanted = tensors("tiny_mistral_sw8/logits.safetensors");
    let sample = unlabeled(&row(&wanted["full.input_ids"], 0));
    let logits = decoder
        .logits(&Batch::pack([&sample]), &adapters)
        .expect("logits");
    let difference = largest_difference(&logits, &wanted["full.logits"].get(0).expect("a row"));
    assert!(difference < 5e-5, "{difference}");
}

#[test]
fn both_spellings_of_rope_parameters_mean_the_same() {
    let shape = |name: &str| {
        let text =
            std::fs::read_to_string(golden("tiny_llama").join(name)).expect("a configuration");
        qlora_trainer::model::shape_from_json(&serde_json::from_str(&text).expect("JSON"))
            .expect("a shape")
    };
    assert_eq!(shape("config.json"), shape("config.pre_v5.json"));
}
