//! Where results go: a matrix of `f32`, added to another, or rows of bf16.

use std::ops::Range;

use crate::host::bf16::round;
use crate::types::rows::{BLOCK, Block, Line, Rows, STEP};

/// The matrix of results, of which every task writes its own columns.
pub(super) struct Target<'a> {
    out: Out<'a>,
    pub(super) rows: usize,
    pub(super) width: usize,
}

enum Out<'a> {
    /// Row by row, each result added to `base`.
    Floats {
        start: *mut f32,
        base: Option<&'a [f32]>,
    },
    /// [`Rows`] of so many lines each.
    Lines { start: *mut Line, steps: usize },
}

// SAFETY: tasks write disjoint columns, and the matrix outlives them all.
unsafe impl Sync for Target<'_> {}

impl<'a> Target<'a> {
    pub(super) fn floats(
        out: &mut [f32],
        base: Option<&'a [f32]>,
        rows: usize,
        width: usize,
    ) -> Self {
        assert_eq!(
            out.len(),
            rows * width,
            "the results are no {rows} x {width} matrix"
        );
        assert!(
            base.is_none_or(|base| base.len() == out.len()),
            "a base of another size"
        );
        Self {
            out: Out::Floats {
                start: out.as_mut_ptr(),
                base,
            },
            rows,
            width,
        }
    }

    pub(super) fn rows(out: &mut Rows) -> Self {
        let (rows, width, steps) = (out.rows, out.width, out.steps);
        Self {
            out: Out::Lines {
                start: out.lines_mut().as_mut_ptr(),
                steps,
            },
            rows,
            width,
        }
    }

    /// Writes the upper left part of `block` to row `row` and the columns `cols`, which begin at a
    /// multiple of 32.
    pub(super) fn store(&self, block: &Block, row: usize, cols: &Range<usize>) {
        debug_assert!(cols.end <= self.width);
        let (values, _) = block.as_chunks::<BLOCK>();
        match self.out {
            Out::Floats { start, base } => {
                for (i, values) in values.iter().enumerate().take(self.rows - row) {
                    let at = (row + i) * self.width + cols.start;
                    // SAFETY: row + i < rows and cols.end <= width, so the part lies inside the
                    // matrix; see `Sync`.
                    let out = unsafe { std::slice::from_raw_parts_mut(start.add(at), cols.len()) };
                    let base = base.map(|base| &base[at..at + cols.len()]);
                    // A whole row has a length that the compiler knows: no call is made to copy it.
                    match <&mut [f32; BLOCK]>::try_from(&mut *out) {
                        Ok(out) => put(out, values, base),
                        Err(_) => put(out, values, base),
                    }
                }
            }
            Out::Lines { start, steps } => {
                for (i, values) in values.iter().enumerate() {
                    // SAFETY: rows are padded to whole blocks and columns to whole lines, so the
                    // line is there.
                    let line = unsafe { &mut *start.add((row + i) * steps + cols.start / STEP) };
                    round(values, 1.0, &mut line.0);
                    // Of missing columns the block holds anything; missing rows are products with
                    // zeros.
                    line.0[cols.len().min(STEP)..].fill(0);
                }
            }
        }
    }
}

/// Writes `values`, added to `base` where there is one.
#[inline(always)]
fn put(out: &mut [f32], values: &[f32], base: Option<&[f32]>) {
    match base {
        None => out
            .iter_mut()
            .zip(values)
            .for_each(|(out, value)| *out = *value),
        Some(base) => out
            .iter_mut()
            .zip(values)
            .zip(base)
            .for_each(|((out, value), base)| *out = base + value),
    }
}
