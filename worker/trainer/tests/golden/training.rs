//! Twenty steps of PEFT and bitsandbytes: losses, gradient norms, the first gradients and the last
//! adapter.

use candle_core::Device;
use qlora_trainer::model::Batch;
use qlora_trainer::process_group::Alone;

use crate::{
    decoder, decoder_on, golden, gradients, initial_adapters, largest_difference, peft_adapter,
    recorded, row, samples, tensors, trainer, unlabeled,
};

/// In bf16 with f32 sums losses and gradients stay within what rounding to eight bits does to them.
pub fn bf16_agrees(run: &str, device: &Device, checkpointing: bool) {
    let recorded = recorded(run, checkpointing, "bf16");
    let decoder = decoder_on(device, "qlora_run/base_bnb4bit", &recorded.config);
    let batches = tensors("qlora_run/batches.safetensors");
    let adapters = initial_adapters(&recorded, &decoder);
    let mut trainer = trainer(&decoder, adapters, &recorded.config);
    let first = [0, 1].map(|n| Batch::pack(&samples(&batches, n)));
    gradients::first_agree_within_bf16(&trainer, &first, &recorded.folder);
    let (mut loss, mut norm) = (0f64, 0f64);
    for (i, wanted) in recorded.steps["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .enumerate()
    {
        let micro: Vec<Batch> = [2 * i, 2 * i + 1]
            .iter()
            .map(|&n| Batch::pack(&samples(&batches, n)))
            .collect();
        let outcome = trainer.step(i as u64, &micro, &mut Alone).expect("a step");
        let number = |key: &str| wanted[key].as_f64().expect("a number");
        loss = loss.max((outcome.loss - number("loss")).abs());
        norm = norm.max((outcome.grad_norm / number("grad_norm") - 1.0).abs());
    }
    println!(
        "parity: {run} in bf16 on {device:?}, 20 steps, loss {loss:.1e}, gradient norm (relative) {norm:.1e}"
    );
    assert!(loss < 5e-3, "{run}: {loss}");
    assert!(norm < 3e-2, "{run}: {norm}");
    let exact = crate::recorded(run, checkpointing, "f32");
    gradients::last_agree_within_bf16(&trainer, &first, &exact, "qlora_run/base_bnb4bit");
}

#[test]
fn products_in_bf16_give_the_recorded_losses_within_their_rounding() {
    for run in ["attn_r8", "all_linear_r8", "dora_r8"] {
        bf16_agrees(run, &Device::Cpu, true);
    }
}

fn training_agrees(run: &str, checkpointing: bool) {
    let recorded = recorded(run, checkpointing, "f32");
    let decoder = decoder("qlora_run/base_bnb4bit", &recorded.config);
    let batches = tensors("qlora_run/batches.safetensors");
    let adapters = initial_adapters(&recorded, &decoder);
    let mut trainer = trainer(&decoder, adapters, &recorded.config);
    let (mut loss, mut norm, mut rate) = (0f64, 0f64, 0f64);
    for (i, wanted) in recorded.steps["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .enumerate()
    {
        let micro: Vec<Batch> = [2 * i, 2 * i + 1]
            .iter()
            .map(|&n| Batch::pack(&samples(&batches, n)))
            .collect();
        if i == 0 {
            gradients::first_agree(&trainer, &micro, &recorded.folder);
        }
        let outcome = trainer.step(i as u64, &micro, &mut Alone).expect("a step");
        let number = |key: &str| wanted[key].as_f64().expect("a number");
        assert!(
            (outcome.loss - number("loss")).abs() < 1e-4,
            "step {i}: loss {} and {}",
            outcome.loss,
            number("loss")
        );
        let ratio = outcome.grad_norm / number("grad_norm");
        assert!(
            (ratio - 1.0).abs() < 1e-3,
            "step {i}: gradient norm {} and {}",
            outcome.grad_norm,
            number("grad_norm")
        );
        assert!(
            (outcome.learning_rate - number("lr")).abs() < 1e-12,
            "step {i}: rate {}",
            outcome.learning_rate
        );
        loss = loss.max((outcome.loss - number("loss")).abs());
        norm = norm.max((ratio - 1.0).abs());
        rate = rate.max((outcome.learning_rate - number("lr")).abs());
    }
    println!(
        "parity: {run}, 20 steps, loss {loss:.1e}, gradient norm (relative) {norm:.1e}, rate {rate:.1e}"
    );
    let wanted = peft_adapter(&golden(&recorded.folder).join("final_adapter"), &decoder);
    assert_eq!(wanted.sites, trainer.adapters.sites);
    let mut weights = 0f32;
    for (ours, theirs) in trainer.adapters.factors.iter().zip(&wanted.factors) {
        assert_eq!(ours.tensors().count(), theirs.tensors().count());
        for (ours, theirs) in ours.tensors().zip(theirs.tensors()) {
            weights = weights.max(largest_difference(ours, theirs));
        }
    }
    assert!(weights < 2e-4, "adapter: {weights}");
    let last = tensors(&format!("{}/final_logits.safetensors", recorded.folder));
    let sample = unlabeled(&row(&last["input_ids"], 0));
    let logits = decoder
        .logits(&Batch::pack([&sample]), &trainer.adapters)
        .expect("logits");
    let difference = largest_difference(&logits, &last["logits"].get(0).expect("a row"));
    println!("parity: {run}, final adapter {weights:.1e}, final logits {difference:.1e}");
    assert!(difference < 2e-3, "final logits: {difference}");
}

#[test]
fn attention_adapters_train_as_with_peft() {
    training_agrees("attn_r8", true);
}

#[test]
fn attention_adapters_train_as_with_peft_without_checkpointing() {
    training_agrees("attn_r8", false);
}

#[test]
fn adapters_on_all_linears_train_as_with_peft() {
    training_agrees("all_linear_r8", true);
}

#[test]
fn adapters_on_all_linears_train_as_with_peft_without_checkpointing() {
    training_agrees("all_linear_r8", false);
}

#[test]
fn dora_trains_as_with_peft() {
    training_agrees("dora_r8", true);
}

#[test]
fn dora_trains_as_with_peft_without_checkpointing() {
    training_agrees("dora_r8", false);
}
