//! The block product in `f32` on AVX2 and FMA, for CPUs without instructions for bf16: 4 rows
//! x 16 columns of results in registers. Widening bf16 is a shift, so half the memory traffic of
//! `f32` is all that it costs.

use std::arch::x86_64::{
    __m256, __m256i, _mm256_and_si256, _mm256_castsi256_ps, _mm256_fmadd_ps, _mm256_load_si256,
    _mm256_loadu_ps, _mm256_set1_epi32, _mm256_setzero_ps, _mm256_slli_epi32, _mm256_storeu_ps,
};

use crate::types::rows::{BLOCK, Line};

/// Rows and columns of results that are held in registers.
const ROWS: usize = 4;
const COLUMNS: usize = 16;

pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// See [`Kernel`](super::instructions::Kernel).
///
/// # Safety
/// [`available`]; `a` has 32 rows of `stride` lines and `b` has 32 lines for each of `steps` steps.
#[target_feature(enable = "avx2,fma")]
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
unsafe fn widened(pairs: __m256i) -> [__m256; 2] {
    // SAFETY: called only where AVX2 is there.
    unsafe {
        let second = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000u32.cast_signed()));
        [
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)),
            _mm256_castsi256_ps(second),
        ]
    }
}

/// [`ROWS`] x [`COLUMNS`] results into the rows of `c`, which are [`BLOCK`] apart.
#[target_feature(enable = "avx2,fma")]
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
    // SAFETY: a line is 64 bytes and 64-byte aligned; offsets stay within what the caller promises.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
        if add {
            for (row, sums) in sums.iter_mut().enumerate() {
                let row = c.as_ptr().add(row * BLOCK);
                *sums = [_mm256_loadu_ps(row), _mm256_loadu_ps(row.add(8))];
            }
        }
        for step in 0..steps {
            for pair in 0..16 {
                let line = b.add(step * BLOCK + pair).cast::<__m256i>();
                let left = widened(_mm256_load_si256(line));
                let right = widened(_mm256_load_si256(line.add(1)));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let two = a.add(row * stride + step).cast::<i32>().add(pair).read();
                    let two = widened(_mm256_set1_epi32(two));
                    for i in 0..2 {
                        sums[0] = _mm256_fmadd_ps(two[i], left[i], sums[0]);
                        sums[1] = _mm256_fmadd_ps(two[i], right[i], sums[1]);
                    }
                }
            }
        }
        for (row, [left, right]) in sums.into_iter().enumerate() {
            let row = c.as_mut_ptr().add(row * BLOCK);
            _mm256_storeu_ps(row, left);
            _mm256_storeu_ps(row.add(8), right);
        }
    }
}
