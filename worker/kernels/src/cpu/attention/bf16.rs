//! Attention in bf16 with `f32` sums, on the block kernels of [`crate::cpu::bf16`].
//!
//! A task is one head of one span, with a tile of query rows at a time. Keys and values are packed once a head. The
//! backward pass rebuilds the probabilities of a tile from its log-sum-exp and sums dK and dV transposed, [E, T],
//! because then both the probabilities and their gradients enter their products as panels, which are cheap to make
//! from rows, and never have to be transposed themselves.

use std::ops::Range;

use multiversion::multiversion;
use rayon::prelude::*;

use super::{BackwardInputs, Head, add_rows, heads};
use crate::cpu::bf16::pack::{self, Line};
use crate::cpu::bf16::{BLOCK, Instructions, STEP, Session};
use crate::cpu::math::{dot, exp, exp_in_place, max};
use crate::ops::attention::{AttentionShape, Span};

/// Query rows of one tile.
const TILE: usize = 128;

/// A matrix of `f32` of which every task writes rows and columns of its own.
struct Shared(*mut f32, usize);

// SAFETY: tasks write disjoint parts, see the callers of `part`.
unsafe impl Sync for Shared {}

impl Shared {
    /// # Safety
    /// No other task reads or writes these elements.
    #[allow(clippy::mut_from_ref)]
    unsafe fn part(&self, at: usize, len: usize) -> &mut [f32] {
        assert!(at + len <= self.1);
        // SAFETY: in bounds, and exclusive as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), len) }
    }
}

/// Rows of a head in bf16, padded to whole blocks, `steps` lines each.
struct Packed {
    lines: Vec<Line>,
    steps: usize,
}

impl Packed {
    fn rows(rows: usize, width: usize, scale: f32, row: impl Fn(usize) -> *const f32) -> Self {
        let steps = width.div_ceil(STEP);
        let mut lines = Vec::new();
        pack::clear(&mut lines, rows.next_multiple_of(BLOCK) * steps);
        for (i, lines) in lines.chunks_exact_mut(steps).take(rows).enumerate() {
            // SAFETY: callers give pointers to `width` elements of a slice.
            let row = unsafe { std::slice::from_raw_parts(row(i), width) };
            pack::round_row(row, scale, lines);
        }
        Self { lines, steps }
    }

    fn queries(head: &Head<'_>, x: &[f32], rows: &Range<usize>, scale: f32) -> Self {
        let e = head.shape.head_dim;
        Self::rows(rows.len(), e, scale, |i| head.q_from(x, rows.start + i)[..e].as_ptr())
    }

    fn keys(head: &Head<'_>, x: &[f32]) -> Self {
        let e = head.shape.head_dim;
        Self::rows(head.span.k.len(), e, 1.0, |j| head.k_from(x, j)[..e].as_ptr())
    }

    fn blocks(&self) -> usize {
        self.lines.len() / self.steps / BLOCK
    }

    /// Rows of block `block`.
    fn block(&self, block: usize) -> &[Line] {
        &self.lines[block * BLOCK * self.steps..]
    }

    /// Panels that a product with the transpose needs, one for each block of rows.
    fn as_transposed(&self) -> Vec<Line> {
        let mut panels = pack::unwritten(self.lines.len());
        for (block, panel) in panels.chunks_exact_mut(self.steps * BLOCK).enumerate() {
            pack::transposed(self.block(block), self.steps, panel);
        }
        panels
    }

    /// Panels that a product with the matrix itself needs, one for each block of columns.
    fn as_is(&self) -> Vec<Line> {
        let mut panels = pack::unwritten(self.lines.len());
        for (column, panel) in panels.chunks_exact_mut(self.blocks() * BLOCK).enumerate() {
            pack::interleaved(&self.lines, self.steps * STEP, column * STEP, panel);
        }
        panels
    }

    /// The transpose, [width, rows]: rows of it are padded to whole blocks of columns.
    fn transpose(&self) -> Self {
        let rows = self.lines.len() / self.steps;
        let steps = rows / STEP;
        let mut lines = Vec::new();
        pack::clear(&mut lines, (self.steps * STEP).next_multiple_of(BLOCK) * steps);
        let out = pack::elements(&mut lines);
        for (row, source) in self.lines.chunks_exact(self.steps).enumerate() {
            for (column, value) in source.iter().flat_map(|line| line.0).enumerate() {
                out[column * rows + row] = value;
            }
        }
        Self { lines, steps }
    }
}

/// A tile of query rows, and the blocks of keys that any of them sees.
struct Tile {
    rows: Range<usize>,
    blocks: Range<usize>,
}

impl Tile {
    fn all<'a>(head: &'a Head<'_>) -> impl Iterator<Item = Tile> + 'a {
        let (span, window) = (head.span, head.shape.window);
        (0..span.q.len()).step_by(TILE).map(move |start| {
            let rows = start..(start + TILE).min(span.q.len());
            let first = span.visible(rows.start, window).start / BLOCK;
            let last = span.visible(rows.end - 1, window).end.div_ceil(BLOCK);
            Tile { rows, blocks: first..last }
        })
    }

    fn row_blocks(&self) -> usize {
        self.rows.len().div_ceil(BLOCK)
    }

    /// Rows of block `block` of the tile, counted from the span's start.
    fn rows_of(&self, block: usize) -> Range<usize> {
        let start = self.rows.start + block * BLOCK;
        start..(start + BLOCK).min(self.rows.end)
    }

    /// Blocks of keys, counted from the tile's first, that a block of rows sees.
    fn blocks_of(&self, head: &Head<'_>, block: usize) -> Range<usize> {
        let rows = self.rows_of(block);
        let (span, window) = (head.span, head.shape.window);
        let first = span.visible(rows.start, window).start / BLOCK;
        let last = span.visible(rows.end - 1, window).end.div_ceil(BLOCK);
        first - self.blocks.start..last - self.blocks.start
    }

    /// Keys, counted from the tile's first, that a row of the span sees.
    fn seen(&self, head: &Head<'_>, row: usize) -> Range<usize> {
        let visible = head.span.visible(row, head.shape.window);
        let start = self.blocks.start * BLOCK;
        visible.start - start..visible.end - start
    }
}

/// Fills `o` [M, H*E] and `lse` [H, M].
pub(crate) fn forward(
    (q, k, v): (&[f32], &[f32], &[f32]),
    shape: &AttentionShape,
    spans: &[Span],
    o: &mut [f32],
    lse: &mut [f32],
    instructions: Instructions,
) {
    let (o, lse) = (Shared(o.as_mut_ptr(), o.len()), Shared(lse.as_mut_ptr(), lse.len()));
    let m = lse.1 / shape.heads;
    heads(shape, spans).par_iter().for_each(|head| {
        let session = Session::open(instructions);
        let keys = Packed::keys(head, k).as_transposed();
        let values = Packed::keys(head, v);
        let (key_blocks, values) = (values.blocks(), values.as_is());
        // SAFETY: one task writes the log-sum-exps of this head and span.
        let lse = unsafe { lse.part(head.index * m + head.span.q.start, head.span.q.len()) };
        let mut scratch = ForwardScratch::default();
        for tile in Tile::all(head) {
            forward_tile(head, &tile, &session, q, &keys, (&values, key_blocks), &o, lse, &mut scratch);
        }
    });
}

#[derive(Default)]
struct ForwardScratch {
    scores: Vec<f32>,
    probabilities: Vec<Line>,
    totals: Vec<f32>,
}

#[allow(clippy::too_many_arguments)]
fn forward_tile(
    head: &Head<'_>,
    tile: &Tile,
    session: &Session,
    q: &[f32],
    keys: &[Line],
    (values, key_blocks): (&[Line], usize),
    o: &Shared,
    lse: &mut [f32],
    scratch: &mut ForwardScratch,
) {
    let e = head.shape.head_dim;
    let queries = Packed::queries(head, q, &tile.rows, head.shape.scale());
    let (steps, width) = (queries.steps, tile.blocks.len() * BLOCK);
    scratch.scores.resize(TILE * width, 0.0);
    pack::clear(&mut scratch.probabilities, TILE * tile.blocks.len());
    scratch.totals.clear();
    let mut block = [0f32; BLOCK * BLOCK];
    for rows in 0..tile.row_blocks() {
        for column in tile.blocks_of(head, rows) {
            let panel = &keys[(tile.blocks.start + column) * steps * BLOCK..];
            session.block(queries.block(rows), steps, panel, steps, &mut block);
            for (i, values) in block.chunks_exact(BLOCK).enumerate() {
                let at = (rows * BLOCK + i) * width + column * BLOCK;
                scratch.scores[at..at + BLOCK].copy_from_slice(values);
            }
        }
    }
    for (i, row) in tile.rows.clone().enumerate() {
        let seen = tile.seen(head, row);
        let scores = &mut scratch.scores[i * width..(i + 1) * width];
        let top = max(&scores[seen.clone()]);
        let total = exp_in_place(&mut scores[seen.clone()], 1.0, top);
        scores[..seen.start].fill(0.0);
        scores[seen.end..].fill(0.0);
        let lines = &mut scratch.probabilities[i * tile.blocks.len()..(i + 1) * tile.blocks.len()];
        pack::round_row(scores, 1.0, lines);
        scratch.totals.push(1.0 / total);
        lse[row] = top + total.ln();
    }
    for rows in 0..tile.row_blocks() {
        let seen = tile.blocks_of(head, rows);
        let probabilities = &scratch.probabilities[rows * BLOCK * tile.blocks.len() + seen.start..];
        for column in 0..steps {
            let panel = &values[(column * key_blocks + tile.blocks.start + seen.start) * BLOCK..];
            session.block(probabilities, tile.blocks.len(), panel, seen.len(), &mut block);
            let part = column * BLOCK..((column + 1) * BLOCK).min(e);
            for (row, values) in tile.rows_of(rows).zip(block.chunks_exact(BLOCK)) {
                let at = ((head.span.q.start + row) * head.shape.heads + head.index) * e + part.start;
                // SAFETY: one task writes this head's columns of this span's rows.
                let out = unsafe { o.part(at, part.len()) };
                let factor = scratch.totals[row - tile.rows.start];
                out.iter_mut().zip(values).for_each(|(out, value)| *out = value * factor);
            }
        }
    }
}

/// `(dq, dk, dv)` with the shapes of q, k and v.
pub(crate) fn backward(
    x: &BackwardInputs<'_>,
    shape: &AttentionShape,
    spans: &[Span],
    dq: &mut [f32],
    instructions: Instructions,
) -> (Vec<f32>, Vec<f32>) {
    let e = shape.head_dim;
    let dq = Shared(dq.as_mut_ptr(), dq.len());
    let heads = heads(shape, spans);
    let parts: Vec<KeyGrads> = heads.par_iter().map(|head| backward_head(head, x, &dq, instructions)).collect();
    let sum = |like: &[f32], part: fn(&KeyGrads) -> &[f32]| {
        let mut total = vec![0f32; like.len()];
        for (head, parts) in heads.iter().zip(&parts) {
            let group = head.index / (shape.heads / shape.kv_heads);
            add_rows(&mut total, part(parts), head.span.k.start, shape.kv_heads, group, e);
        }
        total
    };
    rayon::join(|| sum(x.k, |p| &p.dk), || sum(x.v, |p| &p.dv))
}

/// dK and dV of one query head, [T, E].
struct KeyGrads {
    dk: Vec<f32>,
    dv: Vec<f32>,
}

/// What the tiles of a head share in the backward pass.
struct HeadPanels {
    keys: Vec<Line>,
    values: Vec<Line>,
    keys_as_is: Vec<Line>,
    key_blocks: usize,
}

/// Sums over the tiles of a head, transposed: [E, T], both padded to whole blocks.
struct Sums {
    dk: Vec<f32>,
    dv: Vec<f32>,
    width: usize,
}

fn backward_head(head: &Head<'_>, x: &BackwardInputs<'_>, dq: &Shared, instructions: Instructions) -> KeyGrads {
    let (e, keys) = (head.shape.head_dim, head.span.k.len());
    let session = Session::open(instructions);
    let packed = Packed::keys(head, x.k);
    let panels = HeadPanels {
        keys: packed.as_transposed(),
        values: Packed::keys(head, x.v).as_transposed(),
        keys_as_is: packed.as_is(),
        key_blocks: packed.blocks(),
    };
    let width = panels.key_blocks * BLOCK;
    let size = packed.steps * BLOCK * width;
    let mut sums = Sums { dk: vec![0.0; size], dv: vec![0.0; size], width };
    let mut scratch = BackwardScratch::default();
    for tile in Tile::all(head) {
        backward_tile(head, &tile, &session, x, &panels, dq, &mut sums, &mut scratch);
    }
    let back = |sums: &[f32]| {
        let mut out = vec![0f32; keys * e];
        for (column, row) in sums.chunks_exact(width).take(e).enumerate() {
            for (key, &value) in row[..keys].iter().enumerate() {
                out[key * e + column] = value;
            }
        }
        out
    };
    KeyGrads { dk: back(&sums.dk), dv: back(&sums.dv) }
}

#[derive(Default)]
struct BackwardScratch {
    p: Vec<Line>,
    ds: Vec<Line>,
    panel: Vec<Line>,
}

#[allow(clippy::too_many_arguments)]
fn backward_tile(
    head: &Head<'_>,
    tile: &Tile,
    session: &Session,
    x: &BackwardInputs<'_>,
    panels: &HeadPanels,
    dq: &Shared,
    sums: &mut Sums,
    scratch: &mut BackwardScratch,
) {
    let (e, scale) = (head.shape.head_dim, head.shape.scale());
    let queries = Packed::queries(head, x.q, &tile.rows, scale);
    let d_o = Packed::queries(head, x.d_o, &tile.rows, 1.0);
    let (steps, columns) = (queries.steps, tile.blocks.len());
    let lines = tile.row_blocks() * BLOCK * columns;
    pack::clear(&mut scratch.p, lines);
    pack::clear(&mut scratch.ds, lines);
    let m = x.lse.len() / head.shape.heads;
    let (mut s, mut dp) = ([0f32; BLOCK * BLOCK], [0f32; BLOCK * BLOCK]);
    let mut sees = [RowTerms::default(); BLOCK];
    for rows in 0..tile.row_blocks() {
        let deltas: Vec<f32> =
            tile.rows_of(rows).map(|row| dot(&head.q_from(x.d_o, row)[..e], &head.q_from(x.o, row)[..e])).collect();
        for column in tile.blocks_of(head, rows) {
            let at = (tile.blocks.start + column) * steps * BLOCK;
            session.block(queries.block(rows), steps, &panels.keys[at..], steps, &mut s);
            session.block(d_o.block(rows), steps, &panels.values[at..], steps, &mut dp);
            for (i, row) in tile.rows_of(rows).enumerate() {
                let seen = tile.seen(head, row);
                let clip = |key: usize| key.saturating_sub(column * BLOCK).min(BLOCK);
                let lse = x.lse[head.index * m + head.span.q.start + row];
                sees[i] = RowTerms { lse, delta: deltas[i], start: clip(seen.start), end: clip(seen.end) };
            }
            let at = rows * BLOCK * columns + column;
            let out = (&mut scratch.p[at..], &mut scratch.ds[at..]);
            score_gradients(&s, &dp, &sees[..tile.rows_of(rows).len()], columns, out);
        }
    }
    for rows in 0..tile.row_blocks() {
        let seen = tile.blocks_of(head, rows);
        let ds = &scratch.ds[rows * BLOCK * columns + seen.start..];
        for column in 0..steps {
            let panel = &panels.keys_as_is[(column * panels.key_blocks + tile.blocks.start + seen.start) * BLOCK..];
            session.block(ds, columns, panel, seen.len(), &mut s);
            let part = column * BLOCK..((column + 1) * BLOCK).min(e);
            for (row, values) in tile.rows_of(rows).zip(s.chunks_exact(BLOCK)) {
                let at = ((head.span.q.start + row) * head.shape.heads + head.index) * e + part.start;
                // SAFETY: one task writes this head's columns of this span's rows.
                let out = unsafe { dq.part(at, part.len()) };
                out.iter_mut().zip(values).for_each(|(out, value)| *out = value * scale);
            }
        }
    }
    let first = tile.blocks.start * BLOCK;
    for (left, right, sum) in
        [(queries.transpose(), &scratch.ds, &mut sums.dk), (d_o.transpose(), &scratch.p, &mut sums.dv)]
    {
        for column in 0..columns {
            let panel = pack::room(&mut scratch.panel, tile.row_blocks() * BLOCK);
            pack::interleaved(right, columns * STEP, column * STEP, panel);
            for rows in 0..left.blocks() {
                session.block(left.block(rows), left.steps, panel, left.steps, &mut s);
                for (i, values) in s.chunks_exact(BLOCK).enumerate() {
                    let at = (rows * BLOCK + i) * sums.width + first + column * BLOCK;
                    sum[at..at + BLOCK].iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                }
            }
        }
    }
}

/// What the scores of one row of a block are compared with, and which of its 32 keys the row sees.
#[derive(Clone, Copy, Default)]
struct RowTerms {
    lse: f32,
    delta: f32,
    start: usize,
    end: usize,
}

/// Rows of a block, `stride` lines apart: p = exp(s - lse) and ds = p (dp - delta), zero where a key is not seen.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn score_gradients(
    s: &[f32; BLOCK * BLOCK],
    dp: &[f32; BLOCK * BLOCK],
    rows: &[RowTerms],
    stride: usize,
    (p_out, ds_out): (&mut [Line], &mut [Line]),
) {
    let (s, _) = s.as_chunks::<BLOCK>();
    let (dp, _) = dp.as_chunks::<BLOCK>();
    for (i, row) in rows.iter().enumerate() {
        let (start, length) = (row.start as u32, (row.end - row.start) as u32);
        let mut p = [0f32; BLOCK];
        let mut ds = [0f32; BLOCK];
        for j in 0..BLOCK {
            let seen = (j as u32).wrapping_sub(start) < length;
            p[j] = if seen { exp(s[i][j] - row.lse) } else { 0.0 };
        }
        for j in 0..BLOCK {
            ds[j] = p[j] * (dp[i][j] - row.delta);
        }
        pack::round(&p, 1.0, &mut p_out[i * stride].0);
        pack::round(&ds, 1.0, &mut ds_out[i * stride].0);
    }
}
