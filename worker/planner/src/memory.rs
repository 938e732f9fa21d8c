//! Bytes that a run needs, part by part.

use qlora_config::{Checkpointing, DeviceKind, OptimizerKind, Quantization, TrainingConfig};
use serde::{Deserialize, Serialize};

use crate::arrangement::Arrangement;
use crate::catalogue::held;
use crate::keep::Keep;
use crate::scratch;
use crate::shape::ModelShape;
use crate::thrift::Thrift;

/// What a device offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceBudget {
    /// Never [`DeviceKind::Any`].
    pub kind: DeviceKind,
    /// Bytes that may be planned with, before `resources.memory_fraction`.
    pub bytes: u64,
}

/// Predicted peak memory of a run, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPlan {
    /// Frozen weights as they are held.
    pub weights: u64,
    /// Adapters, their gradients and the optimizer's state.
    pub adapters: u64,
    /// What is kept between forward and backward.
    pub activations: u64,
    /// A dequantized weight, one block at work, and chunks of logits; on a Mac, uploads that wait to be freed as well.
    pub scratch: u64,
    /// Program, libraries and device context.
    pub overhead: u64,
}

impl MemoryPlan {
    pub fn total(&self) -> u64 {
        self.weights + self.adapters + self.activations + self.scratch + self.overhead
    }
}

/// A run that needs more than there is, and changes that would make it fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("needs {}, {} may be used{}", gib(*needed), gib(*available), advice(.suggestions))]
pub struct DoesNotFit {
    pub needed: u64,
    pub available: u64,
    /// Such as `data.max_seq_len: 1536`; each alone is enough.
    pub suggestions: Vec<String>,
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
}

fn advice(suggestions: &[String]) -> String {
    if suggestions.is_empty() { String::new() } else { format!("; fits with {}", suggestions.join(", or ")) }
}

/// Predicts the memory of `config` on a device of `kind`, with as little kept as it allows, and all thrift.
///
/// Tokens of a micro-batch are `micro_batch_size * max_seq_len`: the worst that the data can bring.
pub fn plan(shape: &ModelShape, config: &TrainingConfig, kind: DeviceKind) -> MemoryPlan {
    Arrangement::least(shape, config, kind).plan(shape, config, kind)
}

/// [`plan`] where `keeps` is kept of the blocks, and only `thrift` is done without.
pub fn plan_with(
    shape: &ModelShape,
    config: &TrainingConfig,
    kind: DeviceKind,
    keeps: &[Keep],
    thrift: Thrift,
) -> MemoryPlan {
    let element = if kind == DeviceKind::Cpu { 4 } else { 2 };
    let tokens = config.training.micro_batch_size * config.data.max_seq_len;
    // Only beside a GPU of CUDA is the machine's memory another one than the device's.
    let least = if kind == DeviceKind::Cuda { Keep::Host } else { Keep::Input };
    let kept = keeps.iter().map(|&keep| match kind {
        DeviceKind::Metal => scratch::rounded(tokens, &keep.max(least).widths(shape, config)),
        _ => (tokens * element * keep.max(least).per_token(shape, config)) as u64,
    });
    let beside = if kind == DeviceKind::Cpu { 0 } else { scratch::kept_beside(shape, config, keeps) };
    MemoryPlan {
        weights: weights(shape, config, kind, thrift),
        adapters: adapter_bytes(config) * shape.adapter_parameters(&config.lora) as u64,
        activations: kept.sum::<u64>() + (tokens * beside) as u64,
        scratch: match kind {
            DeviceKind::Cuda => scratch::on_gpu(shape, config, tokens, keeps, thrift),
            DeviceKind::Metal => scratch::on_metal(shape, config, tokens),
            _ => scratch::on_processor(shape, config, tokens, element),
        },
        overhead: if kind == DeviceKind::Cuda { 700 << 20 } else { 80 << 20 },
    }
}

/// Bytes of the machine's memory that a run on a GPU keeps its embedding and inputs of blocks in, at the most.
pub fn on_host(shape: &ModelShape, config: &TrainingConfig) -> u64 {
    let Arrangement { thrift, keeps, .. } = Arrangement::least(shape, config, DeviceKind::Cuda);
    let tokens = config.training.micro_batch_size * config.data.max_seq_len;
    let away = keeps.iter().filter(|&&keep| keep == Keep::Host).count();
    let embedding = if thrift.embedding_on_host(shape) { shape.vocabulary * shape.hidden } else { 0 };
    2 * (away * tokens * shape.hidden + embedding) as u64
}

/// [`plan`], held against a budget.
///
/// # Errors
/// It does not fit; the error names the smallest changes that would.
pub fn fit(shape: &ModelShape, config: &TrainingConfig, budget: DeviceBudget) -> Result<MemoryPlan, DoesNotFit> {
    let available = (budget.bytes as f64 * config.resources.memory_fraction) as u64;
    let wanted = plan(shape, config, budget.kind);
    if wanted.total() <= available {
        return Ok(wanted);
    }
    let fits = |changed: &TrainingConfig| plan(shape, changed, budget.kind).total() <= available;
    Err(DoesNotFit { needed: wanted.total(), available, suggestions: suggestions(config, fits) })
}

fn weights(shape: &ModelShape, config: &TrainingConfig, kind: DeviceKind, thrift: Thrift) -> u64 {
    let linear = (shape.layers * shape.block_parameters()) as f64;
    let elsewhere = if thrift.embedding_on_host(shape) { shape.vocabulary * shape.hidden } else { 0 };
    let tables = (shape.table_parameters() - elsewhere) as f64;
    let (linear_bits, table_bits) = match held(&config.model) {
        // By its name a model is held as one of the others.
        Quantization::Nf4 | Quantization::Auto => (quantised_bits(config), 16.0),
        // Q4_1 and its kin take 4.5 to 5 bits; tables are often kept at 6 to 8.
        Quantization::Gguf => (5.0, if kind == DeviceKind::Cuda { 16.0 } else { 8.5 }),
        Quantization::None => (16.0, 16.0),
    };
    ((linear * linear_bits + tables * table_bits) / 8.0) as u64
}

/// Bits of a weight in NF4, its share of the scales among them.
pub(crate) fn quantised_bits(config: &TrainingConfig) -> f64 {
    let scale = if config.model.double_quant { 8.0 + 32.0 / 256.0 } else { 32.0 };
    4.0 + scale / config.model.block_size as f64
}

/// Bytes of a trained number: itself, its gradients, and two moments.
fn adapter_bytes(config: &TrainingConfig) -> u64 {
    let moments = match config.training.optimizer {
        OptimizerKind::Adamw => 8,
        OptimizerKind::Adamw8bit => 2,
    };
    4 + 4 * gradients_at_once(config) + moments
}

/// Gradients of one number that are held at one time: those of the micro-batch at work, and one of each half of the sum
/// that is done; at the end of a step of several workers their own, in one piece as well, and the sum over all.
fn gradients_at_once(config: &TrainingConfig) -> u64 {
    let workers = config.resources.workers.max(1);
    let own = (config.training.gradient_accumulation / workers).max(1);
    let adding_up = 1 + u64::from(own.next_power_of_two().trailing_zeros());
    adding_up.max(if workers > 1 { 4 } else { 1 })
}

fn suggestions(config: &TrainingConfig, fits: impl Fn(&TrainingConfig) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    if config.training.gradient_checkpointing == Checkpointing::Off {
        let mut changed = config.clone();
        changed.training.gradient_checkpointing = Checkpointing::Auto;
        if fits(&changed) {
            found.push("training.gradient_checkpointing: auto".into());
        }
    }
    if let Some(text) = smaller_batch(config, &fits) {
        found.push(text);
    }
    if let Some(length) = longest(config, &fits) {
        found.push(format!("data.max_seq_len: {length}"));
    }
    found
}

/// A smaller micro-batch with the same effective batch.
fn smaller_batch(config: &TrainingConfig, fits: &impl Fn(&TrainingConfig) -> bool) -> Option<String> {
    let batch = config.training.micro_batch_size * config.training.gradient_accumulation;
    let mut changed = config.clone();
    (1..config.training.micro_batch_size).rev().filter(|size| batch.is_multiple_of(*size)).find_map(|size| {
        changed.training.micro_batch_size = size;
        let accumulation = batch / size;
        fits(&changed)
            .then(|| format!("training.micro_batch_size: {size} with training.gradient_accumulation: {accumulation}"))
    })
}

fn longest(config: &TrainingConfig, fits: &impl Fn(&TrainingConfig) -> bool) -> Option<usize> {
    let mut changed = config.clone();
    (1..=config.data.max_seq_len / 128).rev().map(|n| n * 128).filter(|&n| n < config.data.max_seq_len).find(
        |&length| {
            changed.data.max_seq_len = length;
            fits(&changed)
        },
    )
}
