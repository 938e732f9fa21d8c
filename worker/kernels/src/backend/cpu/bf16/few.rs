//! Products of few rows, as in generation: every row of the matrix is unpacked once and multiplied
//! as it lies, since building panels for a block of 32 rows would cost more than the product.

use multiversion::multiversion;

use super::term::Term;
use crate::types::rows::{self, BLOCK, Block, Line, STEP};

/// Rows up to which this pays.
pub(super) const FEW: usize = 4;

/// Products of all rows of `terms` with the columns `cols` of the result, at the upper left of a
/// block of zeros.
pub(super) fn block(
    terms: &[Term<'_>],
    cols: std::ops::Range<usize>,
    strip: &mut Vec<Line>,
) -> Block {
    let mut block = [0f32; BLOCK * BLOCK];
    for Term { x, w } in terms {
        let strip = rows::room(strip, cols.len() * x.steps);
        if !x.width.is_multiple_of(STEP) {
            strip.fill(rows::ZERO);
        }
        w.unpack(
            cols.clone(),
            0..x.width,
            rows::elements(strip),
            x.steps * STEP,
        );
        for (column, weights) in strip.chunks_exact(x.steps).enumerate() {
            for (row, x) in x.block(0).chunks_exact(x.steps).take(x.rows).enumerate() {
                block[row * BLOCK + column] += dot(x, weights);
            }
        }
    }
    block
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2+fma"))]
fn dot(a: &[Line], b: &[Line]) -> f32 {
    let value = |bits: u16| f32::from_bits(u32::from(bits) << 16);
    let mut sums = [0f32; STEP];
    for (a, b) in a.iter().zip(b) {
        for ((sum, &a), &b) in sums.iter_mut().zip(&a.0).zip(&b.0) {
            *sum += value(a) * value(b);
        }
    }
    sums.iter().sum()
}
