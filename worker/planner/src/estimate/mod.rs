//! Bytes that a run needs under a memory policy, part by part. It chooses nothing: that is
//! `search`.

pub(crate) mod attention;
mod step;

use qlora_config::{DeviceKind, OptimizerKind, Quantization, TrainingConfig};
use serde::{Deserialize, Serialize};

use crate::catalogue::held;
use crate::policy::{LowMemory, MemoryPolicy};
use crate::run::Run;
use crate::saved::SavedActivations;
use crate::shape::ModelShape;

/// Predicted peak memory of a run, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPlan {
    /// Frozen weights as they are held.
    pub weights: u64,
    /// Adapters, their gradients and the optimizer's state.
    pub adapters: u64,
    /// What is saved between forward and backward.
    pub activations: u64,
    /// A dequantized weight, one block at work, and chunks of logits; the scores of attention where
    /// they are held whole; on a Mac, uploads that wait to be freed as well.
    pub scratch: u64,
    /// Program, libraries and device context.
    pub overhead: u64,
}

impl MemoryPlan {
    pub fn total(&self) -> u64 {
        [self.adapters, self.activations, self.scratch, self.overhead]
            .into_iter()
            .fold(self.weights, u64::saturating_add)
    }
}

/// Predicts the memory of `config` on a device of `kind` under `policy`.
///
/// Tokens of a micro-batch are `micro_batch_size * max_seq_len`: the worst that the data can bring.
pub fn estimate(
    shape: &ModelShape,
    config: &TrainingConfig,
    kind: DeviceKind,
    policy: &MemoryPolicy,
) -> MemoryPlan {
    plan(&Run::new(shape, config, kind), policy)
}

pub(crate) fn plan(run: &Run<'_>, policy: &MemoryPolicy) -> MemoryPlan {
    let Run {
        shape,
        config,
        device,
    } = *run;
    MemoryPlan {
        weights: weights(run, policy.low_memory)
            + policy.dequantized as u64 * dequantized_block(shape, config),
        adapters: adapter_bytes(config) * shape.adapter_parameters(&config.lora) as u64,
        activations: activations(run, &policy.saved),
        scratch: step::bytes(run, policy),
        overhead: device.overhead,
    }
}

/// Bytes of host memory that a run keeps its embedding and offloaded inputs of blocks in.
pub(crate) fn on_host(run: &Run<'_>, policy: &MemoryPolicy) -> u64 {
    let shape = run.shape;
    let away = policy
        .saved
        .iter()
        .filter(|&&saved| saved == SavedActivations::OffloadedInput)
        .count();
    let embedding = if policy.low_memory.embedding_on_host(shape) {
        shape.vocabulary * shape.hidden
    } else {
        0
    };
    2 * (away * run.tokens() * shape.hidden + embedding) as u64
}

/// Bytes that the weights of a block take in bf16 beyond their codes and scales.
pub(crate) fn dequantized_block(shape: &ModelShape, config: &TrainingConfig) -> u64 {
    (shape.block_parameters() as f64 * (16.0 - nf4_bits(config)) / 8.0) as u64
}

fn activations(run: &Run<'_>, saved: &[SavedActivations]) -> u64 {
    let Run {
        shape,
        config,
        device,
    } = *run;
    let tokens = run.tokens();
    let least = if device.offloads {
        SavedActivations::OffloadedInput
    } else {
        SavedActivations::Input
    };
    let widths = saved
        .iter()
        .flat_map(|&saved| saved.max(least).widths(shape, config));
    let rows: u64 = widths
        .map(|width| device.buffers.hold(tokens * device.element * width))
        // All that the largest model could save of the largest micro-batch takes more than 64 bits.
        .fold(0, u64::saturating_add);
    rows.saturating_add(if device.saves_sums {
        (tokens * sums(shape, config, saved)) as u64
    } else {
        0
    })
}

/// Bytes for each token that are saved on a GPU whatever the policy: the adapters' inner results,
/// in bf16, and in `f32` the sums of two norms and, with the output of attention, its own.
fn sums(shape: &ModelShape, config: &TrainingConfig, saved: &[SavedActivations]) -> usize {
    let adapters = 2 * config.lora.r * shape.targets(&config.lora).len();
    let attention = |saved: &SavedActivations| {
        if *saved >= SavedActivations::Attention {
            4 * shape.heads
        } else {
            0
        }
    };
    saved
        .iter()
        .map(|saved| adapters + 8 + attention(saved))
        .sum()
}

fn weights(run: &Run<'_>, low_memory: LowMemory) -> u64 {
    let shape = run.shape;
    let linear = (shape.layers * shape.block_parameters()) as f64;
    let elsewhere = if low_memory.embedding_on_host(shape) {
        shape.vocabulary * shape.hidden
    } else {
        0
    };
    let tables = (shape.table_parameters() - elsewhere) as f64;
    let (linear_bits, table_bits) = match held(&run.config.model) {
        // By its name a model is held as one of the others.
        Quantization::Nf4 | Quantization::Auto => (nf4_bits(run.config), 16.0),
        // Q4_1 and its kin take 4.5 to 5 bits.
        Quantization::Gguf => (5.0, run.device.gguf_table_bits),
        Quantization::None => (16.0, 16.0),
    };
    ((linear * linear_bits + tables * table_bits) / 8.0) as u64
}

/// Bits of a weight in NF4, its share of the scales among them.
fn nf4_bits(config: &TrainingConfig) -> f64 {
    let scale = if config.model.double_quant {
        8.0 + 32.0 / 256.0
    } else {
        32.0
    };
    4.0 + scale / config.model.block_size as f64
}

/// Bytes of a trained parameter: itself, its gradients, and two moments.
fn adapter_bytes(config: &TrainingConfig) -> u64 {
    let moments = match config.training.optimizer {
        OptimizerKind::Adamw => 8,
        OptimizerKind::Adamw8bit => 2,
    };
    4 + 4 * gradients_at_once(config) + moments
}

/// Gradients of one parameter that are held at one time: those of the micro-batch at work, and one
/// of each half of the sum that is done; at the end of a step of several workers their own, in one
/// piece as well, and the sum over all.
fn gradients_at_once(config: &TrainingConfig) -> u64 {
    let workers = config.resources.workers.max(1);
    let own = (config.training.gradient_accumulation / workers).max(1);
    let adding_up = 1 + u64::from(own.next_power_of_two().trailing_zeros());
    adding_up.max(if workers > 1 { 4 } else { 1 })
}
