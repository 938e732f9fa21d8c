//! The block product on AVX512-BF16 dot products: 8 rows x 32 columns of results in registers.

use std::arch::x86_64::{
    __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_load_si512, _mm512_loadu_ps, _mm512_set1_epi32,
    _mm512_setzero_ps, _mm512_storeu_ps,
};

use crate::types::rows::{BLOCK, Line};

/// Rows of results that are held in registers.
const ROWS: usize = 8;

/// See [`Kernel`](super::instructions::Kernel).
///
/// # Safety
/// [`has_avx512_bf16`](crate::host::bf16::has_avx512_bf16); `a` has 32 rows of `stride` lines and
/// `b` has 32 lines for each of `steps` steps.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn block(
    a: *const Line,
    stride: usize,
    b: *const Line,
    steps: usize,
    c: &mut [f32; BLOCK * BLOCK],
    add: bool,
) {
    for (group, c) in c.chunks_exact_mut(ROWS * BLOCK).enumerate() {
        // SAFETY: as promised by the caller: the group's rows lie within the block.
        unsafe { rows(a.add(group * ROWS * stride), stride, b, steps, c, add) };
    }
}

/// [`ROWS`] rows of the block, into `c` [8, 32].
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn rows(
    a: *const Line,
    stride: usize,
    b: *const Line,
    steps: usize,
    c: &mut [f32],
    add: bool,
) {
    // SAFETY: a line is 64 bytes and 64-byte aligned; offsets stay within what the caller promises.
    unsafe {
        let panel = |line: usize| -> __m512bh {
            std::mem::transmute::<__m512i, _>(_mm512_load_si512(b.add(line).cast()))
        };
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        if add {
            for (row, sums) in c.chunks_exact(BLOCK).zip(&mut sums) {
                *sums = [
                    _mm512_loadu_ps(row.as_ptr()),
                    _mm512_loadu_ps(row.as_ptr().add(16)),
                ];
            }
        }
        for step in 0..steps {
            for pair in 0..16 {
                let (left, right) = (panel(step * BLOCK + pair), panel(step * BLOCK + 16 + pair));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let two = a.add(row * stride + step).cast::<i32>().add(pair).read();
                    let two: __m512bh = std::mem::transmute::<__m512i, _>(_mm512_set1_epi32(two));
                    sums[0] = _mm512_dpbf16_ps(sums[0], two, left);
                    sums[1] = _mm512_dpbf16_ps(sums[1], two, right);
                }
            }
        }
        for (row, [left, right]) in c.chunks_exact_mut(BLOCK).zip(sums) {
            _mm512_storeu_ps(row.as_mut_ptr(), left);
            _mm512_storeu_ps(row.as_mut_ptr().add(16), right);
        }
    }
}
