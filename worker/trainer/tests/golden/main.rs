//! Models and whole training runs against those of transformers, PEFT and bitsandbytes
//! (`tests/golden`).

mod families;
#[cfg(feature = "cuda")]
mod gpu;
mod gradients;
mod invariance;
mod logits;
mod merged;
mod training;

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use qlora_config::{FlashAttention, ResolvedConfig};
use qlora_data::{IGNORE, Sample};
use qlora_planner::MemoryPolicy;
use qlora_testkit::tensors::largest_difference;
use qlora_testkit::{golden, golden_json, resolved};
use qlora_trainer::adapter;
use qlora_trainer::lora::{Adapters, NAMES};
use qlora_trainer::model::Decoder;
use qlora_trainer::optim::{LearningRate, Optimizer};
use qlora_trainer::runtime::{Purpose, Runtime};
use qlora_trainer::step::Trainer;
use qlora_trainer::weights::Checkpoint;
use serde_json::Value;

fn tensors(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(golden(name), &Device::Cpu).expect("golden tensors")
}

fn config(set: &[&str]) -> ResolvedConfig {
    let common = [
        "model.base=tiny",
        "data.train=rows.jsonl",
        "resources.device=cpu",
        "model.compute=f32",
    ];
    resolved(&common, set)
}

fn decoder(folder: &str, config: &ResolvedConfig) -> Decoder {
    decoder_on(&Device::Cpu, folder, config)
}

fn decoder_on(device: &Device, folder: &str, config: &ResolvedConfig) -> Decoder {
    decoder_under(&MemoryPolicy::default(), device, folder, config)
}

fn decoder_under(
    to: &MemoryPolicy,
    device: &Device,
    folder: &str,
    config: &ResolvedConfig,
) -> Decoder {
    let checkpoint = Checkpoint::open(&golden(folder)).expect("a checkpoint");
    loaded(device, &checkpoint, config, to)
}

/// The model of `checkpoint` with an attention whose sums have a fixed order.
fn loaded(
    device: &Device,
    checkpoint: &Checkpoint,
    config: &ResolvedConfig,
    policy: &MemoryPolicy,
) -> Decoder {
    let purpose = Purpose::Inference {
        model: &config.config().model,
        attention: FlashAttention::Repeatable,
    };
    let mut runtime =
        Runtime::on(device, &checkpoint.files.shape, purpose, 512).expect("a backend");
    runtime.policy = policy.clone();
    runtime.load(checkpoint, 512, |_| {}).expect("a model")
}

fn untrained(decoder: &Decoder, config: &ResolvedConfig) -> Adapters {
    decoder
        .adapters(&config.config().lora, 1)
        .expect("adapters")
}

fn peft_adapter(folder: &Path, decoder: &Decoder) -> Adapters {
    adapter::load(
        folder,
        &decoder.shape,
        &decoder.fingerprint,
        1,
        &Device::Cpu,
    )
    .expect("PEFT's adapter")
}

/// A trainer of 20 steps.
fn trainer<'a>(
    decoder: &'a Decoder,
    adapters: Adapters,
    config: &'a ResolvedConfig,
) -> Trainer<'a> {
    trainer_of(decoder, adapters, config, 20)
}

fn trainer_of<'a>(
    decoder: &'a Decoder,
    adapters: Adapters,
    config: &'a ResolvedConfig,
    steps: u64,
) -> Trainer<'a> {
    let training = &config.config().training;
    let optimizer = Optimizer::new(&adapters, training.optimizer).expect("an optimizer");
    let saved = qlora_planner::search(&decoder.shape, config.config(), None).saved;
    Trainer {
        decoder,
        adapters,
        optimizer,
        training,
        learning_rate: LearningRate::new(training, steps),
        saved,
    }
}

fn row(tensor: &Tensor, i: usize) -> Vec<i64> {
    tensor
        .get(i)
        .and_then(|t| t.to_dtype(DType::I64)?.to_vec1())
        .expect("integers")
}

fn unlabeled(ids: &[i64]) -> Sample {
    Sample {
        ids: ids.iter().map(|&id| id as u32).collect(),
        labels: vec![IGNORE; ids.len()],
    }
}

struct Recorded {
    folder: String,
    steps: Value,
    config: ResolvedConfig,
}

fn recorded(run: &str, checkpointing: bool, compute: &str) -> Recorded {
    let folder = format!("qlora_run/{run}");
    let steps = golden_json(&format!("{folder}/steps.json"));
    let every = [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ];
    let targets: Vec<_> = match steps["lora"]["targets"].as_array() {
        Some(targets) => targets.iter().filter_map(Value::as_str).collect(),
        None => every.to_vec(),
    };
    let config = config(&[
        "lora.r=8",
        "lora.alpha=16",
        "lora.dropout=0",
        &format!("lora.target_modules=[{}]", targets.join(", ")),
        "training.learning_rate=1e-3",
        "training.warmup_ratio=0.2",
        "training.gradient_accumulation=2",
        &format!("training.gradient_checkpointing={checkpointing}"),
        &format!("model.compute={compute}"),
        &format!("lora.dora={}", run.starts_with("dora")),
    ]);
    Recorded {
        folder,
        steps,
        config,
    }
}

/// Micro-batch `index` of the recording, its right padding taken off.
fn samples(all: &HashMap<String, Tensor>, index: usize) -> Vec<Sample> {
    let part = |name: &str| &all[&format!("{index:02}.{name}")];
    let rows = part("input_ids").dims()[0];
    let sample = |i| {
        let length = row(part("attention_mask"), i)
            .iter()
            .filter(|&&m| m == 1)
            .count();
        let ids = row(part("input_ids"), i)[..length]
            .iter()
            .map(|&id| id as u32)
            .collect();
        Sample {
            ids,
            labels: row(part("labels"), i)[..length].to_vec(),
        }
    };
    (0..rows).map(sample).collect()
}

/// The recorded run's model, with the adapters that it began with.
fn initial_adapters(recorded: &Recorded, decoder: &Decoder) -> Adapters {
    let initial = tensors(&format!("{}/initial_adapter.safetensors", recorded.folder));
    let mut adapters = untrained(decoder, &recorded.config);
    for (site, factors) in adapters.sites.clone().iter().zip(&mut adapters.factors) {
        let find = |i: usize, ours: &Tensor| {
            let suffix = format!("{}.{}", site.module_path(), NAMES[i]);
            let found = initial.iter().find(|(name, _)| name.ends_with(&suffix));
            let found = found
                .map(|(_, t)| t.clone())
                .unwrap_or_else(|| panic!("no initial {suffix}"));
            // Magnitudes follow from the weights: ours must be PEFT's.
            let on_cpu = ours.to_device(&Device::Cpu)?;
            assert!(
                i < 2 || largest_difference(&found, &on_cpu) < 1e-6,
                "{suffix}"
            );
            Ok(found.to_device(ours.device())?)
        };
        *factors = factors.map(find).expect("the recorded factors");
    }
    adapters
}
