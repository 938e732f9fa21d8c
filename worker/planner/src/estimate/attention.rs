//! What attention needs that holds the scores of every pair of tokens.

use crate::run::Run;

/// Bytes of attention over one sequence, whose scores are held whole, in `f32`: the probabilities,
/// their gradient, that of the scores, and the slope of a cap or one of them transposed; beside
/// them queries, keys, values, the output and two gradients. None where the device has flash
/// attention for such heads.
///
/// Sequences are computed one after another, and a window hides scores that are held all the same.
pub(crate) fn dense(run: &Run<'_>) -> u64 {
    let (shape, length) = (run.shape, run.config.data.max_seq_len);
    if run.device.flash_heads.covers(shape.head_dim) {
        return 0;
    }
    let buffer = |elements: usize| run.device.buffers.hold(4 * elements);
    4 * buffer(shape.heads * length * length) + 6 * buffer(length * shape.heads * shape.head_dim)
}
