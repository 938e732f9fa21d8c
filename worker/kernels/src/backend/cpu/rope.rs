//! Rows of rotary embedding.

use multiversion::multiversion;
use rayon::prelude::*;

/// Rotates `x` [M, G*E] into `y`; `cos`, `sin` are [T, P], of the first P pairs of a head of E, and
/// `sign` is 1 forward, -1 back.
pub(crate) fn rotate(
    x: &[f32],
    y: &mut [f32],
    positions: &[u32],
    (cos, sin): (&[f32], &[f32]),
    (head_dim, pairs): (usize, usize),
    sign: f32,
) {
    let width = x.len() / positions.len().max(1);
    if width == 0 {
        return;
    }
    y.par_chunks_mut(width)
        .zip(x.par_chunks(width))
        .zip(positions.par_iter())
        .for_each(|((row, x), &position)| {
            row.copy_from_slice(x);
            let at = position as usize * pairs;
            for head in row.chunks_exact_mut(head_dim) {
                rotate_head(head, &cos[at..at + pairs], &sin[at..at + pairs], sign);
            }
        });
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn rotate_head(head: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
    let (first, second) = head.split_at_mut(cos.len());
    for (((a, b), c), s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        let (x, y, s) = (*a, *b, s * sign);
        *a = x * c - y * s;
        *b = y * c + x * s;
    }
}
