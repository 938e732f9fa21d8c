//! Masks of dropout.

use multiversion::multiversion;
use rayon::prelude::*;

use crate::host::bf16::round;
use crate::host::philox::{LANES, philox_lanes};
use crate::types::dropout::DropoutKey;
use crate::types::rows::{Rows, widen};

/// Elements of bf16 that are widened at one time.
const RUN: usize = 512;

/// Writes the mask of `out.len()` elements from `element` on, a multiple of 8: 1 / (1 - p) or 0.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn mask(element: u64, key: &DropoutKey, out: &mut [f32]) {
    let (threshold, kept) = (key.threshold(), key.kept());
    for (i, out) in out.chunks_mut(8 * LANES).enumerate() {
        let words = philox_lanes(element / 8 + (i * LANES) as u64, key);
        let mut values = [0f32; 8 * LANES];
        for (lane, values) in values.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            for (j, value) in values.iter_mut().enumerate() {
                let number = words[j / 2][lane] >> (16 * (j % 2)) & 0xffff;
                *value = if number >= threshold { kept } else { 0.0 };
            }
        }
        out.copy_from_slice(&values[..out.len()]);
    }
}

/// `out` = `x` [M, D] times its mask times 1 / (1 - p), plus `base`.
pub(crate) fn apply(x: &[f32], d: usize, key: &DropoutKey, base: Option<&[f32]>, out: &mut [f32]) {
    /// Elements of one task; the first may be fewer, so that the others begin with a group.
    const CHUNK: usize = 64 * 8 * LANES;
    let first = key.first_token * d as u64;
    out.par_chunks_mut(CHUNK)
        .enumerate()
        .for_each(|(task, out)| {
            let at = task * CHUNK;
            let element = first + at as u64;
            let skip = (element % 8) as usize;
            let mut factors = vec![0f32; skip + out.len()];
            mask(element - skip as u64, key, &mut factors);
            let x = &x[at..at + out.len()];
            match base {
                None => out
                    .iter_mut()
                    .zip(x)
                    .zip(&factors[skip..])
                    .for_each(|((out, x), f)| *out = x * f),
                Some(base) => {
                    let parts = out.iter_mut().zip(x).zip(&factors[skip..]).zip(&base[at..]);
                    parts.for_each(|(((out, x), f), base)| *out = base + x * f);
                }
            }
        });
}

/// [`apply`] of bf16, without a base.
pub(crate) fn apply_rows(x: &Rows, key: &DropoutKey) -> Rows {
    let d = x.width;
    Rows::make(x.rows, d, |row, out| {
        let (mut factors, mut values) = ([0f32; RUN + 8], [0f32; RUN]);
        for (i, (x, out)) in x.row(row).chunks(RUN).zip(out.chunks_mut(RUN)).enumerate() {
            let element = (key.first_token + row as u64) * d as u64 + (i * RUN) as u64;
            let skip = (element % 8) as usize;
            let n = x.len();
            mask(element - skip as u64, key, &mut factors[..skip + n]);
            widen(x, &mut values);
            values
                .iter_mut()
                .zip(&factors[skip..skip + n])
                .for_each(|(value, factor)| *value *= factor);
            round(&values[..n], 1.0, out);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_does_not_depend_on_how_rows_are_split() {
        let key = DropoutKey {
            seed: 7,
            step: 3,
            projection: 11,
            first_token: 0,
            probability: 0.25,
        };
        let (rows, d) = (6, 13);
        let (ones, mut whole, mut parts) = (
            vec![1f32; rows * d],
            vec![0f32; rows * d],
            vec![0f32; rows * d],
        );
        apply(&ones, d, &key, None, &mut whole);
        apply(&ones[..2 * d], d, &key, None, &mut parts[..2 * d]);
        apply(
            &ones[2 * d..],
            d,
            &DropoutKey {
                first_token: 2,
                ..key
            },
            None,
            &mut parts[2 * d..],
        );
        assert_eq!(whole, parts);
    }

    #[test]
    fn the_share_of_dropped_elements_is_the_probability() {
        let key = DropoutKey {
            seed: 1,
            step: 0,
            projection: 0,
            first_token: 0,
            probability: 0.05,
        };
        let mut x = vec![0f32; 400_000];
        apply(&vec![1f32; 400_000], 100, &key, None, &mut x);
        let dropped = x.iter().filter(|&&v| v == 0.0).count() as f64 / x.len() as f64;
        assert!((dropped - 0.05).abs() < 0.002, "dropped {dropped}");
    }
}
