//! Scores, softmax and output, tile by tile.

use rayon::prelude::*;

use super::tiles::{Packed, Shared, TILE, Tile};
use crate::backend::cpu::attention::heads::{Head, heads};
use crate::backend::cpu::bf16::instructions::Session;
use crate::backend::cpu::math::{cap_in_place, exp_in_place, max};
use crate::host::bf16::round_row;
use crate::types::attention::AttentionShape;
use crate::types::instructions::Instructions;
use crate::types::rows::{BLOCK, Line, clear};
use crate::types::sequences::Span;

/// Fills `o` [M, H*E] and `lse` [H, M].
pub(crate) fn forward(
    (q, k, v): (&[f32], &[f32], &[f32]),
    shape: &AttentionShape,
    spans: &[Span],
    o: &mut [f32],
    lse: &mut [f32],
    instructions: Instructions,
) {
    let (o, lse) = (
        Shared(o.as_mut_ptr(), o.len()),
        Shared(lse.as_mut_ptr(), lse.len()),
    );
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
            forward_tile(
                head,
                &tile,
                &session,
                q,
                &keys,
                (&values, key_blocks),
                &o,
                lse,
                &mut scratch,
            );
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
    let queries = Packed::queries(head, q, &tile.rows, head.shape.scale);
    let (steps, width) = (queries.steps, tile.blocks.len() * BLOCK);
    scratch.scores.resize(TILE * width, 0.0);
    clear(&mut scratch.probabilities, TILE * tile.blocks.len());
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
        if let Some(cap) = head.shape.cap {
            cap_in_place(&mut scores[seen.clone()], cap);
        }
        let top = max(&scores[seen.clone()]);
        let total = exp_in_place(&mut scores[seen.clone()], 1.0, top);
        scores[..seen.start].fill(0.0);
        scores[seen.end..].fill(0.0);
        let lines = &mut scratch.probabilities[i * tile.blocks.len()..(i + 1) * tile.blocks.len()];
        round_row(scores, 1.0, lines);
        scratch.totals.push(1.0 / total);
        lse[row] = top + total.ln();
    }
    for rows in 0..tile.row_blocks() {
        let seen = tile.blocks_of(head, rows);
        let probabilities = &scratch.probabilities[rows * BLOCK * tile.blocks.len() + seen.start..];
        for column in 0..steps {
            let panel = &values[(column * key_blocks + tile.blocks.start + seen.start) * BLOCK..];
            session.block(
                probabilities,
                tile.blocks.len(),
                panel,
                seen.len(),
                &mut block,
            );
            let part = column * BLOCK..((column + 1) * BLOCK).min(e);
            for (row, values) in tile.rows_of(rows).zip(block.chunks_exact(BLOCK)) {
                let at =
                    ((head.span.q.start + row) * head.shape.heads + head.index) * e + part.start;
                // SAFETY: one task writes this head's columns of this span's rows.
                let out = unsafe { o.part(at, part.len()) };
                let factor = scratch.totals[row - tile.rows.start];
                out.iter_mut()
                    .zip(values)
                    .for_each(|(out, value)| *out = value * factor);
            }
        }
    }
}
