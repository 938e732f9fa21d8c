//! Adapters merged into a base, and models written in bitsandbytes' layout.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use qlora_planner::MemoryPolicy;
use qlora_trainer::export::{self, Base, ElementType};
use qlora_trainer::model::Batch;
use qlora_trainer::weights::Checkpoint;
use serde_json::Value;

use crate::{
    config, decoder, golden, largest_difference, loaded, peft_adapter, row, tensors, unlabeled,
    untrained,
};

/// PEFT's adapter merged into the weights gives the logits of base and adapter together.
fn merged_agrees(run: &str, base: Base, quantization: &str) {
    let config = config(&[&format!("model.quantization={quantization}")]);
    let home = tempfile::tempdir().expect("a folder");
    let (adapter, out) = (
        golden(&format!("qlora_run/{run}/final_adapter")),
        home.path().join("merged"),
    );
    let model = &config.config().model;
    let merge = || {
        export::merge(
            &golden("tiny_llama"),
            &adapter,
            &out,
            base,
            model,
            ElementType::F16,
            &mut |_, _| Ok(()),
        )
    };
    let merged = merge();
    let merged = merged.expect("a merged model");
    assert!(merged.adapted > 0 && merged.update > 0.0 && merged.quantization > 0.0);
    let sample = unlabeled(&row(
        &tensors("tiny_llama/logits.safetensors")["full.input_ids"],
        0,
    ));
    let batch = Batch::pack([&sample]);
    let decoder = decoder("tiny_llama", &config);
    let adapters = peft_adapter(&adapter, &decoder);
    let together = decoder.logits(&batch, &adapters).expect("logits");
    let plain = crate::config(&["model.quantization=none"]);
    let checkpoint = Checkpoint::open(&out).expect("the merged model");
    let alone = loaded(&Device::Cpu, &checkpoint, &plain, &MemoryPolicy::default());
    let logits = alone
        .logits(&batch, &untrained(&alone, &plain))
        .expect("logits");
    let difference = largest_difference(&logits, &together);
    println!("parity: {run} merged into {base:?}, logits {difference:.1e}");
    assert!(difference < 5e-5, "{difference}");
    let again = merge();
    assert!(
        again
            .expect_err("the folder exists")
            .to_string()
            .contains("exists already")
    );
}

#[test]
fn an_adapter_merged_into_the_original_weights_gives_the_same_logits() {
    for run in ["attn_r8", "all_linear_r8", "dora_r8"] {
        merged_agrees(run, Base::Original, "none");
    }
}

#[test]
fn an_adapter_merged_into_the_dequantized_weights_gives_those_of_training() {
    for run in ["attn_r8", "all_linear_r8", "dora_r8"] {
        merged_agrees(run, Base::Dequantized, "nf4");
    }
}

#[test]
fn quantized_weights_are_no_base_to_merge_into() {
    let config = config(&[]);
    let home = tempfile::tempdir().expect("a folder");
    let (adapter, out) = (
        golden("qlora_run/attn_r8/final_adapter"),
        home.path().join("merged"),
    );
    let model = &config.config().model;
    let base = golden("qlora_run/base_bnb4bit");
    let fault = export::merge(
        &base,
        &adapter,
        &out,
        Base::Original,
        model,
        ElementType::F16,
        &mut |_, _| Ok(()),
    );
    assert!(
        fault
            .expect_err("a refusal")
            .to_string()
            .contains("holds quantized weights")
    );
    assert!(!out.exists());
}

/// Quantized here, written as bitsandbytes does, and read back: the same model as the one that
/// transformers wrote.
#[test]
fn a_model_written_in_bitsandbytes_layout_is_the_one_that_bitsandbytes_writes() {
    let config = config(&[]);
    let home = tempfile::tempdir().expect("a folder");
    let out = home.path().join("nf4");
    let model = &config.config().model;
    let written = export::convert(
        &golden("tiny_llama"),
        &out,
        model,
        ElementType::F16,
        &mut |_, _| Ok(()),
    );
    assert_eq!(written.expect("a model").tensors, 21);
    let load = |folder: &Path| {
        candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu)
            .expect("tensors")
    };
    let (ours, theirs) = (load(&out), load(&golden("qlora_run/base_bnb4bit")));
    let names = |tensors: &HashMap<String, Tensor>| {
        let mut names: Vec<String> = tensors.keys().cloned().collect();
        names.sort();
        names
    };
    assert_eq!(names(&ours), names(&theirs));
    let state = |tensor: &Tensor| -> Value {
        serde_json::from_slice(&tensor.to_vec1::<u8>().expect("bytes")).expect("JSON")
    };
    for (name, tensor) in &theirs {
        if name.contains("quant_state") {
            let (found, wanted) = (state(&ours[name]), state(tensor));
            assert_eq!(found, wanted, "{name}");
        } else {
            assert_eq!(ours[name].dims(), tensor.dims(), "{name}");
            let floats = |t: &Tensor| {
                t.to_dtype(DType::F32)
                    .and_then(|t| t.flatten_all()?.to_vec1::<f32>())
            };
            assert_eq!(
                floats(&ours[name]).expect("values"),
                floats(tensor).expect("values"),
                "{name}"
            );
        }
    }
    let text = std::fs::read_to_string(out.join("config.json")).expect("a configuration");
    let described: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        described["quantization_config"]["bnb_4bit_quant_type"],
        "nf4"
    );
}
