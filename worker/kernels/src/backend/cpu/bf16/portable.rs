//! The block product in plain code: the reference for the others.

use crate::types::rows::{BLOCK, Line, STEP};

/// See [`Kernel`](super::instructions::Kernel).
///
/// # Safety
/// `a` has 32 rows of `stride` lines and `b` has 32 lines for each of `steps` steps.
pub(super) unsafe fn block(
    a: *const Line,
    stride: usize,
    b: *const Line,
    steps: usize,
    c: &mut [f32; BLOCK * BLOCK],
    add: bool,
) {
    // SAFETY: as promised by the caller.
    let (a, b) = unsafe {
        (
            std::slice::from_raw_parts(a, (BLOCK - 1) * stride + steps),
            std::slice::from_raw_parts(b, steps * BLOCK),
        )
    };
    let value = |bits: u16| f32::from_bits(u32::from(bits) << 16);
    for (row, c) in c.chunks_exact_mut(BLOCK).enumerate() {
        if !add {
            c.fill(0.0);
        }
        for (step, tiles) in b.chunks_exact(BLOCK).enumerate() {
            let activations = &a[row * stride + step].0;
            for k in 0..STEP {
                let x = value(activations[k]);
                for (column, sum) in c.iter_mut().enumerate() {
                    *sum +=
                        x * value(tiles[16 * (column / 16) + k / 2].0[2 * (column % 16) + k % 2]);
                }
            }
        }
    }
}
