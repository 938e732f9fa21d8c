//! Gradients of queries, keys and values, tile by tile.

use multiversion::multiversion;
use rayon::prelude::*;

use super::tiles::{Packed, Shared, Tile};
use crate::backend::cpu::attention::heads::{BackwardInputs, Head, add_rows, heads};
use crate::backend::cpu::bf16::instructions::Session;
use crate::backend::cpu::bf16::panels;
use crate::backend::cpu::math::{cap_in_place, dot, exp};
use crate::host::bf16::round;
use crate::types::attention::AttentionShape;
use crate::types::instructions::Instructions;
use crate::types::rows::{self, BLOCK, Block, Line, STEP};
use crate::types::sequences::Span;

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
    let parts: Vec<KeyGrads> = heads
        .par_iter()
        .map(|head| backward_head(head, x, &dq, instructions))
        .collect();
    let sum = |like: &[f32], part: fn(&KeyGrads) -> &[f32]| {
        let mut total = vec![0f32; like.len()];
        for (head, parts) in heads.iter().zip(&parts) {
            let group = head.index / (shape.heads / shape.kv_heads);
            add_rows(
                &mut total,
                part(parts),
                head.span.k.start,
                shape.kv_heads,
                group,
                e,
            );
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

/// Sums over the tiles of a head, transposed: [E, T] in blocks, those of a row of blocks side by
/// side.
struct Sums {
    dk: Vec<Block>,
    dv: Vec<Block>,
    /// Blocks of a row.
    width: usize,
}

fn backward_head(
    head: &Head<'_>,
    x: &BackwardInputs<'_>,
    dq: &Shared,
    instructions: Instructions,
) -> KeyGrads {
    let (e, keys) = (head.shape.head_dim, head.span.k.len());
    let session = Session::open(instructions);
    let packed = Packed::keys(head, x.k);
    let panels = HeadPanels {
        keys: packed.as_transposed(),
        values: Packed::keys(head, x.v).as_transposed(),
        keys_as_is: packed.as_is(),
        key_blocks: packed.blocks(),
    };
    let width = panels.key_blocks;
    let zeros = vec![[0f32; BLOCK * BLOCK]; packed.steps * width];
    let mut sums = Sums {
        dk: zeros.clone(),
        dv: zeros,
        width,
    };
    let mut scratch = BackwardScratch::default();
    for tile in Tile::all(head) {
        backward_tile(
            head,
            &tile,
            &session,
            x,
            &panels,
            dq,
            &mut sums,
            &mut scratch,
        );
    }
    let back = |sums: &[Block]| {
        let mut out = vec![0f32; keys * e];
        for (i, block) in sums.iter().enumerate() {
            let (columns, first) = (i / width * BLOCK, i % width * BLOCK);
            for (column, row) in (columns..e).zip(block.chunks_exact(BLOCK)) {
                for (key, &value) in (first..keys).zip(row) {
                    out[key * e + column] = value;
                }
            }
        }
        out
    };
    KeyGrads {
        dk: back(&sums.dk),
        dv: back(&sums.dv),
    }
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
    let (e, scale) = (head.shape.head_dim, head.shape.scale);
    let queries = Packed::queries(head, x.q, &tile.rows, scale);
    let d_o = Packed::queries(head, x.d_o, &tile.rows, 1.0);
    let (steps, columns, width) = (queries.steps, tile.blocks.len(), sums.width);
    let lines = tile.row_blocks() * BLOCK * columns;
    rows::clear(&mut scratch.p, lines);
    rows::clear(&mut scratch.ds, lines);
    let m = x.lse.len() / head.shape.heads;
    let (mut s, mut dp) = ([0f32; BLOCK * BLOCK], [0f32; BLOCK * BLOCK]);
    let mut sees = [RowTerms::default(); BLOCK];
    for rows in 0..tile.row_blocks() {
        let deltas: Vec<f32> = tile
            .rows_of(rows)
            .map(|row| dot(&head.q_from(x.d_o, row)[..e], &head.q_from(x.o, row)[..e]))
            .collect();
        for column in tile.blocks_of(head, rows) {
            let at = (tile.blocks.start + column) * steps * BLOCK;
            session.block(
                queries.block(rows),
                steps,
                &panels.keys[at..],
                steps,
                &mut s,
            );
            session.block(d_o.block(rows), steps, &panels.values[at..], steps, &mut dp);
            for (i, row) in tile.rows_of(rows).enumerate() {
                let seen = tile.seen(head, row);
                let clip = |key: usize| key.saturating_sub(column * BLOCK).min(BLOCK);
                let lse = x.lse[head.index * m + head.span.q.start + row];
                sees[i] = RowTerms {
                    lse,
                    delta: deltas[i],
                    start: clip(seen.start),
                    end: clip(seen.end),
                };
            }
            let at = rows * BLOCK * columns + column;
            let out = (&mut scratch.p[at..], &mut scratch.ds[at..]);
            let sees = &sees[..tile.rows_of(rows).len()];
            if let Some(cap) = head.shape.cap {
                under_cap(cap, &mut s, &mut dp, sees);
            }
            score_gradients(&s, &dp, sees, columns, out);
        }
    }
    for rows in 0..tile.row_blocks() {
        let seen = tile.blocks_of(head, rows);
        let ds = &scratch.ds[rows * BLOCK * columns + seen.start..];
        for column in 0..steps {
            let panel = &panels.keys_as_is
                [(column * panels.key_blocks + tile.blocks.start + seen.start) * BLOCK..];
            session.block(ds, columns, panel, seen.len(), &mut s);
            let part = column * BLOCK..((column + 1) * BLOCK).min(e);
            for (row, values) in tile.rows_of(rows).zip(s.chunks_exact(BLOCK)) {
                let at =
                    ((head.span.q.start + row) * head.shape.heads + head.index) * e + part.start;
                // SAFETY: one task writes this head's columns of this span's rows.
                let out = unsafe { dq.part(at, part.len()) };
                out.iter_mut()
                    .zip(values)
                    .for_each(|(out, value)| *out = value * scale);
            }
        }
    }
    for (left, right, sums) in [
        (queries.transpose(), &scratch.ds, &mut sums.dk),
        (d_o.transpose(), &scratch.p, &mut sums.dv),
    ] {
        for column in 0..columns {
            let seen = tile.rows_that_see(head, column);
            if seen.is_empty() {
                continue;
            }
            let panel = rows::room(&mut scratch.panel, tile.row_blocks() * BLOCK);
            panels::interleaved(right, columns * STEP, column * STEP, panel);
            let panel = &panel[seen.start * BLOCK..];
            for block in 0..left.blocks() {
                let left_rows = &left.block(block)[seen.start..];
                let sum = &mut sums[block * width + tile.blocks.start + column];
                session.multiply(left_rows, left.steps, panel, seen.len(), sum, true);
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

/// Caps the scores `s`, and brings the cap's slope into dp - delta: p (dp - delta) slope =
/// p (dp' - delta) with dp' = (dp - delta) slope + delta.
fn under_cap(
    cap: f32,
    s: &mut [f32; BLOCK * BLOCK],
    dp: &mut [f32; BLOCK * BLOCK],
    rows: &[RowTerms],
) {
    let s = &mut s[..rows.len() * BLOCK];
    cap_in_place(s, cap);
    let lines = s.chunks_exact(BLOCK).zip(dp.chunks_exact_mut(BLOCK));
    for ((s, dp), row) in lines.zip(rows) {
        for (dp, s) in dp.iter_mut().zip(s) {
            let share = s / cap;
            *dp = (*dp - row.delta) * (1.0 - share * share) + row.delta;
        }
    }
}

/// Rows of a block, `stride` lines apart: p = exp(s - lse) and ds = p (dp - delta), zero where a
/// key is not seen.
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
        round(&p, 1.0, &mut p_out[i * stride].0);
        round(&ds, 1.0, &mut ds_out[i * stride].0);
    }
}
