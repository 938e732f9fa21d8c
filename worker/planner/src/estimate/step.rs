//! What a step needs besides weights, adapters and saved activations: the block at work, or the
//! loss.
//!
//! Letters: M tokens of a micro-batch, D hidden, F feed-forward, V vocabulary.

use qlora_config::Quantization;

use super::attention::dense;
use crate::catalogue::held;
use crate::device::StepForm;
use crate::policy::MemoryPolicy;
use crate::run::Run;
use crate::saved::SavedActivations;
use crate::shape::ModelShape;
use crate::uploads;

/// Bytes that a step of `run` needs under `policy`.
pub(super) fn bytes(run: &Run<'_>, policy: &MemoryPolicy) -> u64 {
    match run.device.step {
        StepForm::Cpu => on_cpu(run, policy),
        StepForm::Cuda => on_cuda(run, policy),
        StepForm::Metal => on_metal(run, policy),
    }
}

/// Bytes that cuBLASLt works with.
const WORKSPACE: usize = 32 << 20;

/// Elements for each token that the block at work holds, and Llama's does not: queries and keys
/// before their norms, what goes into norms that follow, and a fused layer's output beside its
/// parts.
fn beside(shape: &ModelShape) -> usize {
    let form = &shape.form;
    let heads = (shape.heads + shape.kv_heads) * shape.head_dim;
    let mut elements = 0;
    if form.head_norms {
        elements += heads;
    }
    if form.norms_after {
        elements += 2 * shape.hidden;
    }
    if form.fused {
        elements += 2 * shape.ffn;
    }
    elements
}

/// Bytes on a CPU.
fn on_cpu(run: &Run<'_>, policy: &MemoryPolicy) -> u64 {
    let Run {
        shape,
        config,
        device,
    } = *run;
    let per_token = SavedActivations::All.per_token(shape, config)
        + beside(shape)
        + 4 * shape.ffn
        + 6 * shape.hidden;
    let weight = shape.largest_layer() * device.element;
    let head = shape.vocabulary * shape.hidden * device.element;
    let logits = 3 * policy.low_memory.rows_of(device) * shape.vocabulary * 4;
    ((run.tokens() * per_token * device.element).max(head + logits) + weight) as u64
}

/// Bytes on a GPU.
///
/// The most is held in the backward pass of a feed-forward layer, all of its block in bf16 beside
/// the gradients of its output, of gate and of up, a matrix that is dequantized and the next one;
/// where attention holds its scores whole, beside these at the most; or in the loss, with logits in
/// `f32` and their gradient in bf16. An input on its way from host memory is held in place of those
/// of the last blocks (`STAYING`), which have been used by then.
fn on_cuda(run: &Run<'_>, policy: &MemoryPolicy) -> u64 {
    let Run {
        shape,
        config,
        device,
    } = *run;
    let (tokens, d, f) = (run.tokens(), shape.hidden, shape.ffn);
    let adapted = shape
        .targets(&config.lora)
        .iter()
        .any(|module| !module.is_attention());
    // The last block is at work while everything is still saved, so what is saved of it is not
    // there twice.
    let last = policy
        .saved
        .last()
        .map_or(0, |saved| saved.per_token(shape, config));
    let per_token = SavedActivations::All.per_token(shape, config) - last
        + beside(shape)
        + d
        + 2 * f
        + if adapted { 2 * f } else { 0 };
    // A matrix and the next one; with an adapter, the matrix and its factor in one as well.
    let matrices = if adapted { 3 } else { 2 };
    let block = tokens * (2 * per_token + 4 * shape.heads) + matrices * (2 * shape.largest_layer());
    let loss =
        tokens.min(policy.low_memory.rows_of(device)) * shape.vocabulary * 6 + tokens * 12 * d;
    let rotations = shape.max_positions.min(config.data.max_seq_len.max(4096)) * shape.head_dim * 4;
    (block as u64 + dense(run)).max(loss as u64) + (rotations + WORKSPACE) as u64
}

/// Bytes on a Mac's GPU, by candle's operations.
///
/// The most is held in the backward pass of a block's attention, or in the loss; beside either, a
/// matrix is dequantized and uploads wait to be freed.
fn on_metal(run: &Run<'_>, policy: &MemoryPolicy) -> u64 {
    let Run {
        shape,
        config,
        device,
    } = *run;
    let tokens = run.tokens();
    let mut widths = SavedActivations::All.widths(shape, config);
    widths.extend(Some(beside(shape)).filter(|&width| width > 0));
    widths.extend([shape.ffn; 4]);
    widths.extend([shape.hidden; 6]);
    let rows: u64 = widths
        .iter()
        .map(|width| device.buffers.hold(tokens * device.element * width))
        .sum();
    let logits = tokens.min(policy.low_memory.rows_of(device)) * shape.vocabulary;
    // In `f32` the logits, their exponentials, the targets and three forms of the gradient; in bf16
    // the first and the last.
    let loss = 6 * device.buffers.hold(4 * logits) + 2 * device.buffers.hold(2 * logits);
    (rows + dense(run)).max(loss) + dequantized(run) + uploads::peak(shape, config)
}

/// The largest matrix while it is dequantized on a Mac.
fn dequantized(run: &Run<'_>) -> u64 {
    let (elements, buffers) = (run.shape.largest_layer(), run.device.buffers);
    match held(&run.config.model) {
        // Values before and after scaling in `f32`, and the result in bf16.
        Quantization::Nf4 | Quantization::Auto => {
            2 * buffers.hold(4 * elements) + buffers.hold(2 * elements)
        }
        // The CPU dequantizes: an upload in `f32`, which is not of the pool, and the result in
        // bf16.
        Quantization::Gguf => 4 * elements as u64 + buffers.hold(2 * elements),
        Quantization::None => 0,
    }
}

#[cfg(test)]
mod tests {
    use qlora_config::DeviceKind;

    use crate::uploads::tests::config;
    use crate::{MemoryPlan, find, plan};

    fn on_mac(set: &[&str]) -> MemoryPlan {
        let shape = find("llama-3.1-8b-instruct")
            .expect("an entry of the catalogue")
            .shape;
        plan(&shape, &config(set), DeviceKind::Metal)
    }

    const MIB: u64 = 1 << 20;

    /// Bytes for each token in 32 blocks: the inner results of four adapters of rank 16 in bf16,
    /// and the sums of two norms.
    fn beside_inputs() -> usize {
        32 * (2 * 4 * 16 + 8)
    }

    #[test]
    fn uploads_that_wait_are_planned_for_on_a_mac() {
        let (with, without) = (on_mac(&[]), on_mac(&["lora.dropout=0"]));
        // 2 masks of 16 MiB for each of 4 adapters wait in the block at work. Both pile up to the
        // bound, the attention masks alone (8 MiB a block) to 256 MiB in 32 blocks.
        assert_eq!(with.scratch - without.scratch, 8 * 16 * MIB + 8 * MIB);
    }

    #[test]
    fn buffers_are_powers_of_two_and_scores_are_whole_on_a_mac() {
        let at = |length: usize| on_mac(&[&format!("data.max_seq_len={length}"), "lora.dropout=0"]);
        // 1,536 rows of 4,096 elements in bf16 are 12 MiB, in a buffer of 16; 2,048 rows fill
        // theirs.
        let inputs = |length: usize| at(length).activations - (length * beside_inputs()) as u64;
        assert_eq!(
            [1024, 1536, 2048].map(inputs),
            [32 * 8 * MIB, 32 * 16 * MIB, 32 * 16 * MIB]
        );
        // Four tensors of 32 x T x T in f32: 0.5 GiB at 1,024 tokens, 8 GiB at 4,096.
        assert!(at(4096).scratch > 8 << 30, "{}", at(4096).scratch);
        assert!(at(1024).scratch < 3 << 30, "{}", at(1024).scratch);
    }

    #[test]
    fn the_preset_of_a_mac_takes_less_than_the_working_set_of_16_gb() {
        let total = on_mac(&["lora.r=16", "training.gradient_accumulation=8"]).total();
        // Two thirds of 16 GiB.
        assert!(
            (7 << 30..16 * (1u64 << 30) * 2 / 3).contains(&total),
            "{:.2} GiB",
            total as f64 / (1u64 << 30) as f64
        );
    }
}
