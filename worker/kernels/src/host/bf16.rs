//! Rounding of elements to bf16.

use multiversion::multiversion;
use rayon::prelude::*;

use crate::types::rows::{BLOCK, Line, Rows, STEP, ZERO, elements};

/// The bits of the bf16 nearest to `x`, ties to even; a NaN stays one.
#[inline(always)]
pub(crate) fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    if x.is_nan() {
        (bits >> 16) as u16 | 0x40
    } else {
        rounded as u16
    }
}

/// `x` [M, K] in bf16.
///
/// # Panics
/// `x` is no matrix of `width` columns.
pub(crate) fn pack(x: &[f32], width: usize) -> Rows {
    let (rows, steps) = (x.len() / width, width.div_ceil(STEP));
    assert_eq!(
        x.len(),
        rows * width,
        "the activations do not have {width} columns"
    );
    let mut packed = Rows::unwritten(rows, width);
    packed
        .lines_mut()
        .par_chunks_mut(steps * BLOCK)
        .zip(x.par_chunks(width * BLOCK))
        .for_each(|(lines, x)| {
            let mut rows = lines.chunks_exact_mut(steps);
            for (row, lines) in x.chunks_exact(width).zip(&mut rows) {
                lines[steps - 1] = ZERO;
                round_row(row, 1.0, lines);
            }
            rows.for_each(|lines| lines.fill(ZERO));
        });
    packed
}

/// Rounds `scale` times `row` into lines whose rest is left as it is.
pub(crate) fn round_row(row: &[f32], scale: f32, lines: &mut [Line]) {
    #[cfg(target_arch = "x86_64")]
    if has_avx512_bf16() {
        // SAFETY: the instructions are there.
        return unsafe { avx512::round(row, scale, elements(lines)) };
    }
    plain_round(row, scale, elements(lines));
}

/// Rounds `scale` times `values` to bf16.
pub fn round(values: &[f32], scale: f32, out: &mut [u16]) {
    #[cfg(target_arch = "x86_64")]
    if has_avx512_bf16() {
        // SAFETY: the instructions are there.
        return unsafe { avx512::round(values, scale, out) };
    }
    plain_round(values, scale, out);
}

#[multiversion(targets("x86_64+avx2"))]
fn plain_round(values: &[f32], scale: f32, out: &mut [u16]) {
    for (out, &x) in out.iter_mut().zip(values) {
        *out = to_bf16(scale * x);
    }
}

/// Whether the CPU converts to bf16 and multiplies it by itself.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx512_bf16() -> bool {
    is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512f")
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512i, _mm512_cvtne2ps_pbh, _mm512_loadu_ps, _mm512_mul_ps, _mm512_set1_ps,
        _mm512_storeu_si512,
    };

    /// Rounds `scale` times `values` to bf16; values below the smallest normal one become zero.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn round(values: &[f32], scale: f32, out: &mut [u16]) {
        let factor = _mm512_set1_ps(scale);
        let (runs, rest) = values.as_chunks::<32>();
        for (run, out) in runs.iter().zip(out.chunks_exact_mut(32)) {
            // SAFETY: loads and stores cover exactly 32 elements.
            unsafe {
                let low = _mm512_mul_ps(_mm512_loadu_ps(run.as_ptr()), factor);
                let high = _mm512_mul_ps(_mm512_loadu_ps(run.as_ptr().add(16)), factor);
                let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
                _mm512_storeu_si512(out.as_mut_ptr().cast(), both);
            }
        }
        for (out, value) in out.iter_mut().skip(runs.len() * 32).zip(rest) {
            *out = super::to_bf16(scale * value);
        }
    }
}
