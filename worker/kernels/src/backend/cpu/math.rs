//! Scalar functions that vectorize, and sums with a fixed order.

use multiversion::multiversion;
use rayon::prelude::*;

/// `exp(x)` for `x` up to about 88, within 2 units in the last place.
///
/// Range reduction by ln 2 in two parts and a polynomial of degree 5 on the rest (Cephes `expf`).
/// Written without branches so that loops over it become vector code.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(-87.336, 88.37);
    let n = (clamped * std::f32::consts::LOG2_E + 0.5).floor();
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 5e-1;
    let value = p * r * r + r + 1.0;
    // SAFETY: n is a whole number between -126 and 128, or comes from a NaN, whose power does not
    // matter.
    let n = if n.is_nan() {
        0
    } else {
        unsafe { n.to_int_unchecked::<i32>() }
    };
    let power = f32::from_bits(((n + 127) << 23) as u32);
    if x < -87.336 { 0.0 } else { value * power }
}

/// Sum of `xs` in eight interleaved partial sums.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub(crate) fn sum(xs: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    let (chunks, rest) = xs.as_chunks::<8>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x;
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

/// Inner product of `a` and `b` in eight interleaved partial sums.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    let (a8, a_rest) = a.as_chunks::<8>();
    let (b8, b_rest) = b.as_chunks::<8>();
    for (x, y) in a8.iter().zip(b8) {
        for i in 0..8 {
            lanes[i] += x[i] * y[i];
        }
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum::<f32>()
}

/// Largest element; minus infinity when there is none.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub(crate) fn max(xs: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 8];
    let (chunks, rest) = xs.as_chunks::<8>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = if *x > *lane { *x } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(
        f32::NEG_INFINITY,
        |a, &b| if b > a || b.is_nan() { b } else { a },
    )
}

/// Replaces every `x` by `exp(x * scale - shift)` and returns the sum of the results.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub(crate) fn exp_in_place(xs: &mut [f32], scale: f32, shift: f32) -> f32 {
    for x in xs.iter_mut() {
        *x = exp(*x * scale - shift);
    }
    sum(xs)
}

/// Writes `exp(x - shift)` of every `x` and returns the sum.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub(crate) fn exp_into(xs: &[f32], shift: f32, out: &mut [f32]) -> f32 {
    for (out, x) in out.iter_mut().zip(xs) {
        *out = exp(*x - shift);
    }
    sum(out)
}

/// Replaces every `x` by `cap * tanh(x / cap)`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub(crate) fn cap_in_place(xs: &mut [f32], cap: f32) {
    for x in xs {
        *x = cap - 2.0 * cap / (exp(*x * (2.0 / cap)) + 1.0);
    }
}

/// Adds `other` to `xs`.
pub(crate) fn add(xs: &mut [f32], other: &[f32]) {
    const CHUNK: usize = 16 * 1024;
    xs.par_chunks_mut(CHUNK)
        .zip(other.par_chunks(CHUNK))
        .for_each(|(xs, other)| {
            xs.iter_mut().zip(other).for_each(|(x, y)| *x += y);
        });
}
