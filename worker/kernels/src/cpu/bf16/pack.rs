//! Layouts that the kernels read.

use multiversion::multiversion;
use rayon::prelude::*;

use super::BLOCK;
pub(crate) use super::STEP;

/// A cache line of bf16.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line(pub [u16; STEP]);

pub(crate) const ZERO: Line = Line([0; STEP]);

/// Empties `lines` and fills them with `n` lines of zeros.
pub(crate) fn clear(lines: &mut Vec<Line>, n: usize) {
    lines.clear();
    lines.resize(n, ZERO);
}

/// The first `n` of `lines`, whatever is in them: for a caller that writes all of them.
pub(crate) fn room(lines: &mut Vec<Line>, n: usize) -> &mut [Line] {
    if lines.len() < n {
        lines.resize(n, ZERO);
    }
    &mut lines[..n]
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

/// Activations [M, K] in bf16; rows padded to whole blocks and columns to whole steps with zeros.
pub(crate) struct Rows {
    lines: Vec<Line>,
    pub steps: usize,
    pub rows: usize,
    pub width: usize,
}

impl Rows {
    /// # Panics
    /// `x` is no matrix of `width` columns.
    pub(crate) fn pack(x: &[f32], width: usize) -> Self {
        let (rows, steps) = (x.len() / width, width.div_ceil(STEP));
        assert_eq!(x.len(), rows * width, "the activations do not have {width} columns");
        let mut lines = unwritten(rows.next_multiple_of(BLOCK) * steps);
        lines.par_chunks_mut(steps * BLOCK).zip(x.par_chunks(width * BLOCK)).for_each(|(lines, x)| {
            let mut rows = lines.chunks_exact_mut(steps);
            for (row, lines) in x.chunks_exact(width).zip(&mut rows) {
                lines[steps - 1] = ZERO;
                round_row(row, 1.0, lines);
            }
            rows.for_each(|lines| lines.fill(ZERO));
        });
        Self { lines, steps, rows, width }
    }

    /// Rows that `make` writes, one at a time into `width` elements; it gets the number of each.
    pub(crate) fn make(rows: usize, width: usize, make: impl Fn(usize, &mut [u16]) + Sync) -> Self {
        Self::make_with(rows, width, || (), |(), row, out| make(row, out)).0
    }

    /// [`Self::make`] with something that each thread keeps, and with what `make` finds on the way, row by row.
    pub(crate) fn make_with<S: Send, T: Send>(
        rows: usize,
        width: usize,
        keep: impl Fn() -> S + Sync + Send,
        make: impl Fn(&mut S, usize, &mut [u16]) -> T + Sync,
    ) -> (Self, Vec<T>) {
        let mut made = Self::unwritten(rows, width);
        let steps = made.steps;
        let (real, padding) = made.lines.split_at_mut(rows * steps);
        padding.fill(ZERO);
        let found = real.par_chunks_mut(steps).enumerate().with_min_len(8).map_init(keep, |kept, (row, lines)| {
            lines[steps - 1] = ZERO;
            make(kept, row, &mut elements(lines)[..width])
        });
        let found = found.collect();
        (made, found)
    }

    /// Two matrices of the same size, as [`Self::make`].
    pub(crate) fn make_two(
        rows: usize,
        width: usize,
        make: impl Fn(usize, &mut [u16], &mut [u16]) + Sync,
    ) -> (Self, Self) {
        let (mut one, mut two) = (Self::unwritten(rows, width), Self::unwritten(rows, width));
        let steps = one.steps;
        let pairs = one.lines.par_chunks_mut(steps).zip(two.lines.par_chunks_mut(steps));
        pairs.enumerate().with_min_len(8).for_each(|(row, (one, two))| {
            if row >= rows {
                one.fill(ZERO);
                return two.fill(ZERO);
            }
            (one[steps - 1], two[steps - 1]) = (ZERO, ZERO);
            make(row, &mut elements(one)[..width], &mut elements(two)[..width]);
        });
        (one, two)
    }

    /// Rows of which every line is written by the caller, those of padding with zeros.
    pub(super) fn unwritten(rows: usize, width: usize) -> Self {
        let steps = width.div_ceil(STEP);
        Self { lines: unwritten(rows.next_multiple_of(BLOCK) * steps), steps, rows, width }
    }

    pub(super) fn lines_mut(&mut self) -> &mut [Line] {
        &mut self.lines
    }

    /// The elements of one row.
    pub(crate) fn row(&self, row: usize) -> &[u16] {
        let lines = &self.lines[row * self.steps..(row + 1) * self.steps];
        // SAFETY: a line is exactly 32 elements without padding.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), self.width) }
    }

    /// The values in `f32`.
    pub(crate) fn unpack(&self) -> Vec<f32> {
        let mut out = vec![0f32; self.rows * self.width];
        out.par_chunks_mut(self.width).enumerate().for_each(|(row, out)| widen(self.row(row), out));
        out
    }

    /// The block of rows that begins at `row`, a multiple of 32.
    pub(crate) fn block(&self, row: usize) -> &[Line] {
        &self.lines[row * self.steps..(row + BLOCK) * self.steps]
    }
}

/// Room for `n` lines that the caller writes before anything reads them.
#[allow(clippy::uninit_vec)]
pub(crate) fn unwritten(n: usize) -> Vec<Line> {
    let mut lines = Vec::with_capacity(n);
    // SAFETY: every bit pattern is a line, and the caller writes all of them.
    unsafe { lines.set_len(n) };
    lines
}

/// bf16 to `f32`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub(crate) fn widen(bits: &[u16], out: &mut [f32]) {
    out.iter_mut().zip(bits).for_each(|(out, &bits)| *out = f32::from_bits(u32::from(bits) << 16));
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

/// Rounds `scale` times `values` to bf16.
pub fn round(values: &[f32], scale: f32, out: &mut [u16]) {
    #[cfg(target_arch = "x86_64")]
    if super::avx512::available() {
        // SAFETY: the instructions are there.
        return unsafe { super::avx512::round(values, scale, out) };
    }
    plain_round(values, scale, out);
}

#[multiversion(targets("x86_64+avx2"))]
fn plain_round(values: &[f32], scale: f32, out: &mut [u16]) {
    for (out, &x) in out.iter_mut().zip(values) {
        *out = to_bf16(scale * x);
    }
}

/// Writes a panel of the forward product: `strip` holds 32 rows of a [N, K] matrix, `steps` lines each. Line `r` of the tile
/// for rows `16 t` to `16 t + 15` and step `s` holds elements `2 r` and `2 r + 1` of the step for each of its rows.
pub(crate) fn transposed(strip: &[Line], steps: usize, panel: &mut [Line]) {
    for (step, tiles) in panel.chunks_exact_mut(BLOCK).enumerate() {
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

/// Writes a panel of the backward product: `strip` holds rows of `width` columns, of which 32 from `start` on are taken. Line
/// `r` of a tile holds rows `2 r` and `2 r + 1` of the step, side by side for each of its 16 columns.
pub(crate) fn interleaved(strip: &[Line], width: usize, start: usize, panel: &mut [Line]) {
    let lines = width / STEP;
    let column = start / STEP;
    for (step, tiles) in panel.chunks_exact_mut(BLOCK).enumerate() {
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
