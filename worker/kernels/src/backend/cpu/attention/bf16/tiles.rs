//! What forward and backward share: matrices that tasks write parts of, heads packed in bf16, tiles
//! of query rows.

use std::ops::Range;

use crate::backend::cpu::attention::heads::Head;
use crate::backend::cpu::bf16::panels;
use crate::host::bf16::round_row;
use crate::types::rows::{self, BLOCK, Line, STEP};

/// Query rows of one tile.
pub(super) const TILE: usize = 128;

/// A matrix of `f32` of which every task writes rows and columns of its own.
pub(super) struct Shared(pub(super) *mut f32, pub(super) usize);

// SAFETY: tasks write disjoint parts, see the callers of `part`.
unsafe impl Sync for Shared {}

impl Shared {
    /// # Safety
    /// No other task reads or writes these elements.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn part(&self, at: usize, len: usize) -> &mut [f32] {
        assert!(at + len <= self.1);
        // SAFETY: in bounds, and exclusive as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), len) }
    }
}

/// Rows of a head in bf16, padded to whole blocks, `steps` lines each.
pub(super) struct Packed {
    pub(super) lines: Vec<Line>,
    pub(super) steps: usize,
}

impl Packed {
    pub(super) fn rows(
        rows: usize,
        width: usize,
        scale: f32,
        row: impl Fn(usize) -> *const f32,
    ) -> Self {
        let steps = width.div_ceil(STEP);
        let mut lines = Vec::new();
        rows::clear(&mut lines, rows.next_multiple_of(BLOCK) * steps);
        for (i, lines) in lines.chunks_exact_mut(steps).take(rows).enumerate() {
            // SAFETY: callers give pointers to `width` elements of a slice.
            let row = unsafe { std::slice::from_raw_parts(row(i), width) };
            round_row(row, scale, lines);
        }
        Self { lines, steps }
    }

    pub(super) fn queries(head: &Head<'_>, x: &[f32], rows: &Range<usize>, scale: f32) -> Self {
        let e = head.shape.head_dim;
        Self::rows(rows.len(), e, scale, |i| {
            head.q_from(x, rows.start + i)[..e].as_ptr()
        })
    }

    pub(super) fn keys(head: &Head<'_>, x: &[f32]) -> Self {
        let e = head.shape.head_dim;
        Self::rows(head.span.k.len(), e, 1.0, |j| {
            head.k_from(x, j)[..e].as_ptr()
        })
    }

    pub(super) fn blocks(&self) -> usize {
        self.lines.len() / self.steps / BLOCK
    }

    /// Rows of block `block`.
    pub(super) fn block(&self, block: usize) -> &[Line] {
        &self.lines[block * BLOCK * self.steps..]
    }

    /// Panels that a product with the transpose needs, one for each block of rows.
    pub(super) fn as_transposed(&self) -> Vec<Line> {
        let mut panels = rows::unwritten(self.lines.len());
        for (block, panel) in panels.chunks_exact_mut(self.steps * BLOCK).enumerate() {
            panels::transposed(self.block(block), self.steps, panel);
        }
        panels
    }

    /// Panels that a product with the matrix itself needs, one for each block of columns.
    pub(super) fn as_is(&self) -> Vec<Line> {
        let mut panels = rows::unwritten(self.lines.len());
        for (column, panel) in panels.chunks_exact_mut(self.blocks() * BLOCK).enumerate() {
            panels::interleaved(&self.lines, self.steps * STEP, column * STEP, panel);
        }
        panels
    }

    /// The transpose, [width, rows]: rows of it are padded to whole blocks of columns.
    pub(super) fn transpose(&self) -> Self {
        let rows = self.lines.len() / self.steps;
        let steps = rows / STEP;
        let mut lines = Vec::new();
        rows::clear(
            &mut lines,
            (self.steps * STEP).next_multiple_of(BLOCK) * steps,
        );
        let out = rows::elements(&mut lines);
        for (row, source) in self.lines.chunks_exact(self.steps).enumerate() {
            for (column, value) in source.iter().flat_map(|line| line.0).enumerate() {
                out[column * rows + row] = value;
            }
        }
        Self { lines, steps }
    }
}

/// A tile of query rows, and the blocks of keys that any of them sees.
pub(super) struct Tile {
    pub(super) rows: Range<usize>,
    pub(super) blocks: Range<usize>,
}

impl Tile {
    pub(super) fn all<'a>(head: &'a Head<'_>) -> impl Iterator<Item = Tile> + 'a {
        let (span, window) = (head.span, head.shape.window);
        (0..span.q.len()).step_by(TILE).map(move |start| {
            let rows = start..(start + TILE).min(span.q.len());
            let first = span.visible(rows.start, window).start / BLOCK;
            let last = span.visible(rows.end - 1, window).end.div_ceil(BLOCK);
            Tile {
                rows,
                blocks: first..last,
            }
        })
    }

    pub(super) fn row_blocks(&self) -> usize {
        self.rows.len().div_ceil(BLOCK)
    }

    /// Rows of block `block` of the tile, counted from the span's start.
    pub(super) fn rows_of(&self, block: usize) -> Range<usize> {
        let start = self.rows.start + block * BLOCK;
        start..(start + BLOCK).min(self.rows.end)
    }

    /// Blocks of keys, counted from the tile's first, that a block of rows sees.
    pub(super) fn blocks_of(&self, head: &Head<'_>, block: usize) -> Range<usize> {
        let rows = self.rows_of(block);
        let (span, window) = (head.span, head.shape.window);
        let first = span.visible(rows.start, window).start / BLOCK;
        let last = span.visible(rows.end - 1, window).end.div_ceil(BLOCK);
        first - self.blocks.start..last - self.blocks.start
    }

    /// Blocks of rows that see any of the keys of block `block`, counted from the tile's first: they
    /// follow each other, since what a row sees ends no earlier than what the row before it sees.
    pub(super) fn rows_that_see(&self, head: &Head<'_>, block: usize) -> Range<usize> {
        let sees = |rows: &usize| self.blocks_of(head, *rows).contains(&block);
        let first = (0..self.row_blocks()).find(sees).unwrap_or(0);
        let end = (0..self.row_blocks())
            .rfind(sees)
            .map_or(first, |last| last + 1);
        first..end
    }

    /// Keys, counted from the tile's first, that a row of the span sees.
    pub(super) fn seen(&self, head: &Head<'_>, row: usize) -> Range<usize> {
        let visible = head.span.visible(row, head.shape.window);
        let start = self.blocks.start * BLOCK;
        visible.start - start..visible.end - start
    }
}
