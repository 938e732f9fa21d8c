//! Layouts that the kernels read.

use multiversion::multiversion;
use rayon::prelude::*;

use super::{BLOCK, STEP, Term};

/// A cache line of bf16.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line(pub [u16; STEP]);

const ZERO: Line = Line([0; STEP]);

/// Empties `lines` and fills them with `n` lines of zeros.
pub(crate) fn clear(lines: &mut Vec<Line>, n: usize) {
    lines.clear();
    lines.resize(n, ZERO);
}

/// The elements of `lines`.
pub(crate) fn elements(lines: &mut [Line]) -> &mut [u16] {
    // SAFETY: a line is exactly 32 elements without padding.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * STEP) }
}

/// The bits of the bf16 nearest to `x`, ties to even; a NaN stays one.
#[inline(always)]
pub(crate) fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    if x.is_nan() { (bits >> 16) as u16 | 0x40 } else { rounded as u16 }
}

/// Activations of all terms of a sum side by side in bf16; rows padded to whole blocks, the columns of each term to
/// whole steps, with zeros.
pub(crate) struct Rows {
    lines: Vec<Line>,
    steps: usize,
}

impl Rows {
    /// Packs `m` rows; `widths` are the columns of each term.
    ///
    /// # Panics
    /// The activations of a term are no `m` rows of its width.
    pub(crate) fn pack(terms: &[Term<'_>], m: usize, widths: &[usize]) -> Self {
        for (term, width) in terms.iter().zip(widths) {
            assert_eq!(term.x.len(), m * width, "the activations are no {m} x {width} matrix");
        }
        let steps = widths.iter().map(|k| k.div_ceil(STEP)).sum();
        let mut lines = vec![ZERO; m.next_multiple_of(BLOCK) * steps];
        lines.par_chunks_mut(steps).take(m).enumerate().for_each(|(row, mut lines)| {
            for (term, &k) in terms.iter().zip(widths) {
                let (own, rest) = lines.split_at_mut(k.div_ceil(STEP));
                round_row(&term.x[row * k..(row + 1) * k], term.scale, own);
                lines = rest;
            }
        });
        Self { lines, steps }
    }

    pub(crate) fn steps(&self) -> usize {
        self.steps
    }

    /// The block of rows that begins at `row`, a multiple of 32.
    pub(crate) fn block(&self, row: usize) -> &[Line] {
        &self.lines[row * self.steps..(row + BLOCK) * self.steps]
    }
}

/// Rounds `scale` times `row` into lines whose rest is left as it is.
pub(crate) fn round_row(row: &[f32], scale: f32, lines: &mut [Line]) {
    #[cfg(target_arch = "x86_64")]
    if super::avx512::available() {
        // SAFETY: the instructions are there.
        return unsafe { super::avx512::round(row, scale, elements(lines)) };
    }
    plain_round(row, scale, elements(lines));
}

/// Rounds `values` to bf16.
pub fn round(values: &[f32], out: &mut [u16]) {
    #[cfg(target_arch = "x86_64")]
    if super::avx512::available() {
        // SAFETY: the instructions are there.
        return unsafe { super::avx512::round(values, 1.0, out) };
    }
    plain_round(values, 1.0, out);
}

#[multiversion(targets("x86_64+avx2"))]
fn plain_round(values: &[f32], scale: f32, out: &mut [u16]) {
    for (out, &x) in out.iter_mut().zip(values) {
        *out = to_bf16(scale * x);
    }
}

/// Appends to the panel of the forward product: `strip` holds 32 rows of a [N, K] matrix, `steps` lines each. Line `r` of the tile
/// for rows `16 t` to `16 t + 15` and step `s` holds elements `2 r` and `2 r + 1` of the step for each of its rows.
pub(crate) fn transposed(strip: &[Line], steps: usize, panel: &mut Vec<Line>) {
    let before = panel.len();
    panel.resize(before + steps * BLOCK, ZERO);
    for (step, tiles) in panel[before..].chunks_exact_mut(BLOCK).enumerate() {
        for (t, tile) in tiles.chunks_exact_mut(16).enumerate() {
            transpose_tile(&strip[16 * t * steps + step..], steps, tile);
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
fn transpose_tile(strip: &[Line], stride: usize, tile: &mut [Line]) {
    for row in 0..16 {
        let source = &strip[row * stride].0;
        for (r, line) in tile.iter_mut().enumerate() {
            line.0[2 * row] = source[2 * r];
            line.0[2 * row + 1] = source[2 * r + 1];
        }
    }
}

/// Appends to the panel of the backward product: `strip` holds rows of `width` columns, of which 32 from `start` on are taken. Line
/// `r` of a tile holds rows `2 r` and `2 r + 1` of the step, side by side for each of its 16 columns.
pub(crate) fn interleaved(strip: &[Line], width: usize, start: usize, steps: usize, panel: &mut Vec<Line>) {
    let before = panel.len();
    panel.resize(before + steps * BLOCK, ZERO);
    let lines = width / STEP;
    let column = start / STEP;
    for (step, tiles) in panel[before..].chunks_exact_mut(BLOCK).enumerate() {
        for r in 0..16 {
            let row = step * STEP + 2 * r;
            let (even, odd) = (&strip[row * lines + column].0, &strip[(row + 1) * lines + column].0);
            interleave(even, odd, &mut tiles[r..]);
        }
    }
}

/// Lines 0 and 16 of `tiles`: the left and the right half of two rows.
#[inline(always)]
fn interleave(even: &[u16; STEP], odd: &[u16; STEP], tiles: &mut [Line]) {
    for (half, at) in [(0, 0), (16, 16)] {
        let line = &mut tiles[at].0;
        for c in 0..16 {
            line[2 * c] = even[half + c];
            line[2 * c + 1] = odd[half + c];
        }
    }
}
