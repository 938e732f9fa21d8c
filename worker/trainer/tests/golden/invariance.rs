//! What must not change a gradient: how a step is cut, and what is kept of a block.

use candle_core::Device;
use qlora_data::Sample;
use qlora_planner::SavedActivations;
use qlora_trainer::model::Batch;

use crate::{
    config, decoder, decoder_on, largest_difference, samples, tensors, trainer, untrained,
};

/// Dropout masks and sums must not depend on how a step is cut into micro-batches.
#[test]
fn a_step_does_not_depend_on_how_it_is_split() {
    for dora in [false, true] {
        step_does_not_depend_on_splits(dora);
    }
}

fn step_does_not_depend_on_splits(dora: bool) {
    let config = config(&[
        "lora.dropout=0.2",
        "model.quantization=nf4",
        &format!("lora.dora={dora}"),
    ]);
    let decoder = decoder("tiny_llama", &config);
    let batches = tensors("qlora_run/batches.safetensors");
    let all: Vec<Sample> = (0..3).flat_map(|i| samples(&batches, i)).collect();
    let gradients = |cuts: &[usize]| {
        let mut adapters = untrained(&decoder, &config);
        for factors in &mut adapters.factors {
            factors.b = (factors.b.ones_like().expect("ones") * 0.02).expect("a value");
        }
        let trainer = trainer(&decoder, adapters, &config);
        let mut rest = all.as_slice();
        let micro: Vec<Batch> = cuts
            .iter()
            .map(|&n| {
                let (now, later) = rest.split_at(n);
                rest = later;
                Batch::pack(now)
            })
            .collect();
        trainer.gradients(5, &micro).expect("gradients")
    };
    let (whole, parts) = (gradients(&[6]), gradients(&[1, 2, 3]));
    assert!(
        (whole.0 - parts.0).abs() < 1e-5,
        "{} and {}",
        whole.0,
        parts.0
    );
    for (a, b) in whole.1.entries().iter().zip(parts.1.entries()) {
        let (a, b) = (
            a.as_ref().expect("a gradient"),
            b.as_ref().expect("a gradient"),
        );
        for (a, b) in a.tensors().zip(b.tensors()) {
            assert!(largest_difference(a, b) < 1e-5);
        }
    }
}

/// Whatever is kept of a block, what is computed again is what was computed: gradients are
/// bit-identical.
pub fn gradients_do_not_depend_on_what_is_kept(device: &Device, compute: &str, dora: bool) {
    of_model_do_not_depend_on_what_is_kept("tiny_llama", device, compute, dora);
}

fn of_model_do_not_depend_on_what_is_kept(model: &str, device: &Device, compute: &str, dora: bool) {
    let compute = format!("model.compute={compute}");
    let config = config(&[
        "lora.dropout=0.2",
        "lora.target_modules=all-linear",
        &compute,
        &format!("lora.dora={dora}"),
    ]);
    let decoder = decoder_on(device, model, &config);
    let batch = [Batch::pack(&samples(
        &tensors("qlora_run/batches.safetensors"),
        0,
    ))];
    let mut trainer = trainer(&decoder, untrained(&decoder, &config), &config);
    let mut wanted: Option<Vec<Vec<f32>>> = None;
    for keep in SavedActivations::EVERY {
        trainer.saved = vec![keep; decoder.shape.layers];
        let (_, gradients) = trainer.gradients(3, &batch).expect("gradients");
        let tensors = gradients
            .entries()
            .iter()
            .flatten()
            .flat_map(|g| g.tensors());
        let found: Vec<Vec<f32>> = tensors
            .map(|t| t.flatten_all().and_then(|t| t.to_vec1()).expect("f32"))
            .collect();
        assert!(found.iter().flatten().any(|&v| v != 0.0));
        assert!(
            *wanted.get_or_insert_with(|| found.clone()) == found,
            "{model}, {keep:?}"
        );
    }
}

/// Fused layers with their masks, norms over heads and norms that follow, of which other tensors
/// are kept.
#[test]
fn what_is_kept_of_a_block_of_another_architecture_does_not_change_a_gradient() {
    for family in ["phi3", "gemma3", "gemma2", "qwen2", "granite"] {
        for (compute, dora) in [("f32", false), ("bf16", false), ("f32", true)] {
            let model = format!("families/{family}");
            of_model_do_not_depend_on_what_is_kept(&model, &Device::Cpu, compute, dora);
        }
    }
}

#[test]
fn what_is_kept_of_a_block_does_not_change_a_gradient() {
    for (compute, dora) in [("f32", false), ("bf16", false), ("f32", true)] {
        gradients_do_not_depend_on_what_is_kept(&Device::Cpu, compute, dora);
    }
}
