//! What a step needs besides weights, adapters and what is kept of its blocks: the block at work, or the loss.
//!
//! Letters: M tokens of a micro-batch, D hidden, F feed-forward, V vocabulary.

use qlora_config::{DeviceKind, TargetModule, TrainingConfig};

use crate::keep::Keep;
use crate::shape::ModelShape;
use crate::thrift::Thrift;

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
/// output, of gate and up, and of its input, a matrix that is dequantised and the next one; or in the loss, with logits in `f32` and
/// their gradient in bf16.
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
    let numbers = Keep::All.per_token(shape, config) - last + 2 * d + 2 * f + if adapted { 2 * f } else { 0 };
    // A matrix and the next one; with an adapter, the matrix and its factor in one as well.
    let matrices = if adapted { 3 } else { 2 };
    let block = tokens * (2 * numbers + 4 * shape.heads) + matrices * (2 * f * d);
    let loss = tokens.min(thrift.logit_rows(DeviceKind::Cuda)) * shape.vocabulary * 6 + tokens * 12 * d;
    let rotations = shape.max_positions.min(config.data.max_seq_len.max(4096)) * shape.head_dim * 4;
    // One input on its way to the machine's memory or back, and one that waits for its turn.
    let staged = if keeps.contains(&Keep::Host) { 2 * tokens * 2 * d } else { 0 };
    (block.max(loss) + rotations + WORKSPACE + staged) as u64
}

/// Bytes for each token that are kept on a GPU whatever the policy: what adapters leave, in bf16, and in `f32` the sums of
/// two norms and, with the output of attention, its own.
pub(crate) fn kept_beside(shape: &ModelShape, config: &TrainingConfig, keeps: &[Keep]) -> usize {
    let adapters = 2 * config.lora.r * config.lora.target_modules.len();
    let sums = |keep: &Keep| if *keep >= Keep::Attention { 4 * shape.heads } else { 0 };
    keeps.iter().map(|keep| adapters + 8 + sums(keep)).sum()
}
