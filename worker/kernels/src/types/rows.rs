//! bf16 in the layout that products on a CPU read: rows padded to whole blocks, columns to whole
//! steps.

use multiversion::multiversion;
use rayon::prelude::*;

/// Rows and columns of the block of results that a kernel makes at one time.
pub(crate) const BLOCK: usize = 32;
/// Summed elements of one step of a kernel: a cache line of bf16.
pub(crate) const STEP: usize = 32;
/// Results of one call of a kernel.
pub(crate) type Block = [f32; BLOCK * BLOCK];

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

/// Activations [M, K] in bf16; rows padded to whole blocks and columns to whole steps with zeros.
pub(crate) struct Rows {
    lines: Vec<Line>,
    pub steps: usize,
    pub rows: usize,
    pub width: usize,
}

impl Rows {
    /// Rows that `make` writes, one at a time into `width` elements; it gets the number of each.
    pub(crate) fn make(rows: usize, width: usize, make: impl Fn(usize, &mut [u16]) + Sync) -> Self {
        Self::make_with(rows, width, || (), |(), row, out| make(row, out)).0
    }

    /// [`Self::make`] with something that each thread keeps, and with what `make` finds on the way,
    /// row by row.
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
        let found = real
            .par_chunks_mut(steps)
            .enumerate()
            .with_min_len(8)
            .map_init(keep, |kept, (row, lines)| {
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
        let pairs = one
            .lines
            .par_chunks_mut(steps)
            .zip(two.lines.par_chunks_mut(steps));
        pairs
            .enumerate()
            .with_min_len(8)
            .for_each(|(row, (one, two))| {
                if row >= rows {
                    one.fill(ZERO);
                    return two.fill(ZERO);
                }
                (one[steps - 1], two[steps - 1]) = (ZERO, ZERO);
                make(
                    row,
                    &mut elements(one)[..width],
                    &mut elements(two)[..width],
                );
            });
        (one, two)
    }

    /// Rows of which every line is written by the caller, those of padding with zeros.
    pub(crate) fn unwritten(rows: usize, width: usize) -> Self {
        let steps = width.div_ceil(STEP);
        Self {
            lines: unwritten(rows.next_multiple_of(BLOCK) * steps),
            steps,
            rows,
            width,
        }
    }

    pub(crate) fn lines_mut(&mut self) -> &mut [Line] {
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
        out.par_chunks_mut(self.width)
            .enumerate()
            .for_each(|(row, out)| widen(self.row(row), out));
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
    out.iter_mut()
        .zip(bits)
        .for_each(|(out, &bits)| *out = f32::from_bits(u32::from(bits) << 16));
}
