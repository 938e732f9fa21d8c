//! The block product in `f32` on NEON, which every 64-bit ARM CPU has: 4 rows x 16 columns of
//! results in registers. Widening bf16 is a shift, so half the memory traffic of `f32` is all that
//! it costs.

use std::arch::aarch64::{
    float32x4_t, uint32x4_t, vandq_u32, vdupq_n_f32, vdupq_n_u32, vfmaq_n_f32, vld1q_f32,
    vld1q_u32, vreinterpretq_f32_u32, vshlq_n_u32, vst1q_f32,
};

use crate::types::rows::{BLOCK, Line};

/// Rows and columns of results that are held in registers.
const ROWS: usize = 4;
const COLUMNS: usize = 16;

/// See [`Kernel`](super::instructions::Kernel).
///
/// # Safety
/// `a` has 32 rows of `stride` lines and `b` has 32 lines for each of `steps` steps.
#[target_feature(enable = "neon")]
pub(super) unsafe fn block(
    a: *const Line,
    stride: usize,
    b: *const Line,
    steps: usize,
    c: &mut [f32; BLOCK * BLOCK],
    add: bool,
) {
    for row in (0..BLOCK).step_by(ROWS) {
        for column in (0..BLOCK).step_by(COLUMNS) {
            // SAFETY: as promised by the caller: rows and columns lie within the block.
            unsafe {
                part(
                    a.add(row * stride),
                    stride,
                    b.add(column),
                    steps,
                    &mut c[row * BLOCK + column..],
                    add,
                )
            };
        }
    }
}

/// The first elements of the pairs in `pairs`, and the second ones.
#[inline(always)]
unsafe fn widened(pairs: uint32x4_t) -> [float32x4_t; 2] {
    // SAFETY: NEON is always there.
    unsafe {
        let second = vandq_u32(pairs, vdupq_n_u32(0xffff_0000));
        [
            vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs)),
            vreinterpretq_f32_u32(second),
        ]
    }
}

/// [`ROWS`] x [`COLUMNS`] results into the rows of `c`, which are [`BLOCK`] apart.
#[target_feature(enable = "neon")]
unsafe fn part(
    a: *const Line,
    stride: usize,
    b: *const Line,
    steps: usize,
    c: &mut [f32],
    add: bool,
) {
    assert!(
        c.len() >= (ROWS - 1) * BLOCK + COLUMNS,
        "the part lies within the block"
    );
    // SAFETY: offsets stay within what the caller promises.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); 4]; ROWS];
        if add {
            for (row, sums) in sums.iter_mut().enumerate() {
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = vld1q_f32(c.as_ptr().add(row * BLOCK + 4 * i));
                }
            }
        }
        for step in 0..steps {
            for pair in 0..16 {
                let line = b.add(step * BLOCK + pair).cast::<u32>();
                let mut columns = [[vdupq_n_f32(0.0); 2]; 4];
                for (i, column) in columns.iter_mut().enumerate() {
                    *column = widened(vld1q_u32(line.add(4 * i)));
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let two = a.add(row * stride + step).cast::<u32>().add(pair).read();
                    let (first, second) =
                        (f32::from_bits(two << 16), f32::from_bits(two & 0xffff_0000));
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = vfmaq_n_f32(vfmaq_n_f32(*sum, column[0], first), column[1], second);
                    }
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (i, sum) in sums.into_iter().enumerate() {
                vst1q_f32(c.as_mut_ptr().add(row * BLOCK + 4 * i), sum);
            }
        }
    }
}
