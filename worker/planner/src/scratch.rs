//! What a step needs besides weights, adapters and what is kept of its blocks: the block at work, or the loss.
//!
//! Letters: M tokens of a micro-batch, D hidden, F feed-forward, V vocabulary.

use qlora_config::{DeviceKind, Quantization, TargetModule, TrainingConfig};

use crate::catalogue::held;
use crate::keep::Keep;
use crate::shape::ModelShape;
use crate::thrift::Thrift;
use crate::uploads;

/// Bytes that cuBLASLt works with.
const WORKSPACE: usize = 32 << 20;

/// Bytes on a processor, whose numbers have `element` bytes.
pub(crate) fn on_processor(shape: &ModelShape, config: &TrainingConfig, tokens: usize, element: usize) -> u64 {
    let numbers = Keep::All.per_token(shape, config) + 4 * shape.ffn + 6 * shape.hidden;
    let weight = shape.ffn * shape.hidden * element;
    let head = shape.vocabulary * shape.hidden * element;
    let logits = 3 * Thrift::Nothing.logit_rows(DeviceKind::Cpu) * shape.vocabulary * 4;
    ((tokens * numbers * element).max(head + logits) + weight) as u64
}

/// Bytes on a GPU.
///
/// The most is held in the backward pass of a feed-forward layer, all of its block in bf16 beside the gradients of its
/// output, of gate and of up, a matrix that is dequantized and the next one; or in the loss, with logits in `f32` and
/// their gradient in bf16. An input on its way from host memory is held in place of those of the last blocks
/// (`STAYING`), which have been used by then.
pub(crate) fn on_gpu(
    shape: &ModelShape,
    config: &TrainingConfig,
    tokens: usize,
    keeps: &[Keep],
    thrift: Thrift,
) -> u64 {
    let (d, f) = (shape.hidden, shape.ffn);
    let adapted = config.lora.target_modules.iter().any(|&module| module >= TargetModule::GateProj);
    // The last block is at work while everything is still kept, so what is kept of it is not there twice.
    let last = keeps.last().map_or(0, |keep| keep.per_token(shape, config));
    let numbers = Keep::All.per_token(shape, config) - last + d + 2 * f + if adapted { 2 * f } else { 0 };
    // A matrix and the next one; with an adapter, the matrix and its factor in one as well.
    let matrices = if adapted { 3 } else { 2 };
    let block = tokens * (2 * numbers + 4 * shape.heads) + matrices * (2 * f * d);
    let loss = tokens.min(thrift.logit_rows(DeviceKind::Cuda)) * shape.vocabulary * 6 + tokens * 12 * d;
    let rotations = shape.max_positions.min(config.data.max_seq_len.max(4096)) * shape.head_dim * 4;
    (block.max(loss) + rotations + WORKSPACE) as u64
}

/// Bytes on a Mac's GPU, by candle's operations.
///
/// The most is held in the backward pass of a block's attention, or in the loss; beside either, a matrix is dequantized
/// and uploads wait to be freed.
pub(crate) fn on_metal(shape: &ModelShape, config: &TrainingConfig, tokens: usize) -> u64 {
    let mut widths = Keep::All.widths(shape, config);
    widths.extend([shape.ffn; 4]);
    widths.extend([shape.hidden; 6]);
    let block = rounded(tokens, &widths) + dense_attention(shape, config.data.max_seq_len);
    let logits = tokens.min(Thrift::Nothing.logit_rows(DeviceKind::Metal)) * shape.vocabulary;
    // In `f32` the logits, their exponentials, the targets and three forms of the gradient; in bf16 the first and the last.
    let loss = 6 * buffer(4 * logits) + 2 * buffer(2 * logits);
    block.max(loss) + dequantized(shape, config) + uploads::peak(shape, config)
}

/// Bytes of candle's buffers on a Mac for tensors of bf16 with so many rows each, of these widths.
pub(crate) fn rounded(rows: usize, widths: &[usize]) -> u64 {
    widths.iter().map(|width| buffer(2 * rows * width)).sum()
}

/// candle takes its buffers on a Mac from a pool of powers of two.
fn buffer(bytes: usize) -> u64 {
    bytes.next_power_of_two() as u64
}

/// Attention over one sequence of `length` tokens, whose scores are held whole, in `f32`: the probabilities, their gradient,
/// that of the scores, and one of them transposed; beside them queries, keys, values, the output and two gradients.
fn dense_attention(shape: &ModelShape, length: usize) -> u64 {
    4 * buffer(4 * shape.heads * length * length) + 6 * buffer(4 * length * shape.heads * shape.head_dim)
}

/// The largest matrix while it is dequantized on a Mac.
fn dequantized(shape: &ModelShape, config: &TrainingConfig) -> u64 {
    let elements = shape.ffn * shape.hidden;
    match held(&config.model) {
        // Values before and after scaling in `f32`, and the result in bf16.
        Quantization::Nf4 | Quantization::Auto => 2 * buffer(4 * elements) + buffer(2 * elements),
        // The CPU dequantises: an upload in `f32`, which is not of the pool, and the result in bf16.
        Quantization::Gguf => 4 * elements as u64 + buffer(2 * elements),
        Quantization::None => 0,
    }
}

/// Bytes for each token that are kept on a GPU whatever the policy: what adapters leave, in bf16, and in `f32` the sums of
/// two norms and, with the output of attention, its own.
pub(crate) fn kept_beside(shape: &ModelShape, config: &TrainingConfig, keeps: &[Keep]) -> usize {
    let adapters = 2 * config.lora.r * config.lora.target_modules.len();
    let sums = |keep: &Keep| if *keep >= Keep::Attention { 4 * shape.heads } else { 0 };
    keeps.iter().map(|keep| adapters + 8 + sums(keep)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uploads::tests::config;
    use crate::{MemoryPlan, find, plan};

    fn on_mac(set: &[&str]) -> MemoryPlan {
        let shape = find("llama-3.1-8b-instruct").expect("an entry of the catalogue").shape;
        plan(&shape, &config(set), DeviceKind::Metal)
    }

    const MIB: u64 = 1 << 20;

    /// Bytes for each token in 32 blocks: what four adapters of rank 16 leave in bf16, and the sums of two norms.
    fn kept_beside_inputs() -> usize {
        32 * (2 * 4 * 16 + 8)
    }

    #[test]
    fn uploads_that_wait_are_planned_for_on_a_mac() {
        let (with, without) = (on_mac(&[]), on_mac(&["lora.dropout=0"]));
        // 2 masks of 16 MiB for each of 4 adapters wait in the block at work. Both pile up to the bound, the attention
        // masks alone (8 MiB a block) to 256 MiB in 32 blocks.
        assert_eq!(with.scratch - without.scratch, 8 * 16 * MIB + 8 * MIB);
    }

    #[test]
    fn buffers_are_powers_of_two_and_scores_are_whole_on_a_mac() {
        let at = |length: usize| on_mac(&[&format!("data.max_seq_len={length}"), "lora.dropout=0"]);
        // 1,536 rows of 4,096 elements in bf16 are 12 MiB, in a buffer of 16; 2,048 rows fill theirs.
        let inputs = |length: usize| at(length).activations - (length * kept_beside_inputs()) as u64;
        assert_eq!([1024, 1536, 2048].map(inputs), [32 * 8 * MIB, 32 * 16 * MIB, 32 * 16 * MIB]);
        // Four tensors of 32 x T x T in f32: 0.5 GiB at 1,024 tokens, 8 GiB at 4,096.
        assert!(at(4096).scratch > 8 << 30, "{}", at(4096).scratch);
        assert!(at(1024).scratch < 3 << 30, "{}", at(1024).scratch);
    }

    #[test]
    fn the_preset_of_a_mac_takes_less_than_the_working_set_of_16_gb() {
        let total = on_mac(&["lora.r=16", "training.gradient_accumulation=8"]).total();
        // Two thirds of 16 GiB.
        assert!((7 << 30..16 * (1u64 << 30) * 2 / 3).contains(&total), "{:.2} GiB", total as f64 / (1u64 << 30) as f64);
    }
}
