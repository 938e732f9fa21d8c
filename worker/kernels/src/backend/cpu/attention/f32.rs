//! Attention in `f32`.
//!
//! A task is one head of one span. It takes a tile of query rows at a time and all the keys that
//! the tile can see, so the softmax of a row is whole and no running maximum is needed; memory is
//! one tile of scores.

use std::ops::Range;

use rayon::prelude::*;

use crate::backend::cpu::attention::heads::{BackwardInputs, Head, add_rows, heads};
use crate::backend::cpu::math::{cap_in_place, dot, exp_in_place, max};
use crate::backend::cpu::matmul::{Strides, matmul};
use crate::types::attention::AttentionShape;
use crate::types::sequences::Span;

/// Query rows of one tile.
const TILE: usize = 64;

/// Query rows of a tile and the keys that any of them sees, both counted from the span's start.
struct Tile {
    rows: Range<usize>,
    keys: Range<usize>,
}

fn tiles(span: &Span, window: Option<usize>) -> impl Iterator<Item = Tile> + '_ {
    (0..span.q.len()).step_by(TILE).map(move |start| {
        let rows = start..(start + TILE).min(span.q.len());
        let keys = span.visible(rows.start, window).start..span.visible(rows.end - 1, window).end;
        Tile { rows, keys }
    })
}

impl Head<'_> {
    fn q_strides(&self) -> Strides {
        Strides::rows(self.shape.heads * self.shape.head_dim)
    }

    fn k_strides(&self) -> Strides {
        Strides::rows(self.shape.kv_heads * self.shape.head_dim)
    }

    /// Unscaled scores of a tile.
    fn scores(&self, tile: &Tile, q: &[f32], k: &[f32], s: &mut Vec<f32>) {
        let (rows, keys) = (tile.rows.len(), tile.keys.len());
        s.clear();
        s.resize(rows * keys, 0.0);
        matmul(
            (rows, self.shape.head_dim, keys),
            s,
            Strides::rows(keys),
            false,
            self.q_from(q, tile.rows.start),
            self.q_strides(),
            self.k_from(k, tile.keys.start),
            self.k_strides().transposed(),
            1.0,
        );
    }

    /// The part of a row of scores that its query sees, as a range within the tile's keys.
    fn seen(&self, tile: &Tile, row: usize) -> Range<usize> {
        let visible = self.span.visible(tile.rows.start + row, self.shape.window);
        visible.start - tile.keys.start..visible.end - tile.keys.start
    }
}

/// Zeroes what a query must not see and gives the rest to `f`.
fn masked(row: &mut [f32], seen: Range<usize>, f: impl FnOnce(&mut [f32])) {
    row[..seen.start].fill(0.0);
    row[seen.end..].fill(0.0);
    f(&mut row[seen]);
}

/// Scales and caps a row of scores where there is a cap; what they are still to be multiplied with.
fn capped(row: &mut [f32], scale: f32, cap: Option<f32>) -> f32 {
    let Some(cap) = cap else { return scale };
    row.iter_mut().for_each(|s| *s *= scale);
    cap_in_place(row, cap);
    1.0
}

/// Fills `o` [M, H*E] and `lse` [H, M].
pub(crate) fn forward(
    (q, k, v): (&[f32], &[f32], &[f32]),
    shape: &AttentionShape,
    spans: &[Span],
    o: &mut [f32],
    lse: &mut [f32],
) {
    let e = shape.head_dim;
    let heads = heads(shape, spans);
    let results: Vec<(Vec<f32>, Vec<f32>)> = heads
        .par_iter()
        .map(|head| forward_head(head, q, k, v))
        .collect();
    let m = lse.len() / shape.heads;
    for (head, (head_o, head_lse)) in heads.iter().zip(&results) {
        let start = head.index * m + head.span.q.start;
        lse[start..start + head_lse.len()].copy_from_slice(head_lse);
        for (i, row) in head_o.chunks_exact(e).enumerate() {
            let at = ((head.span.q.start + i) * shape.heads + head.index) * e;
            o[at..at + e].copy_from_slice(row);
        }
    }
}

fn forward_head(head: &Head<'_>, q: &[f32], k: &[f32], v: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let e = head.shape.head_dim;
    let scale = head.shape.scale;
    let mut o = vec![0f32; head.span.q.len() * e];
    let mut lse = Vec::with_capacity(head.span.q.len());
    let (mut s, cap) = (Vec::new(), head.shape.cap);
    for tile in tiles(head.span, head.shape.window) {
        head.scores(&tile, q, k, &mut s);
        let keys = tile.keys.len();
        for (i, row) in s.chunks_exact_mut(keys).enumerate() {
            masked(row, head.seen(&tile, i), |row| {
                let scale = capped(row, scale, cap);
                let top = max(row) * scale;
                let total = exp_in_place(row, scale, top);
                row.iter_mut().for_each(|p| *p /= total);
                lse.push(top + total.ln());
            });
        }
        let out = &mut o[tile.rows.start * e..tile.rows.end * e];
        let shape = (tile.rows.len(), keys, e);
        matmul(
            shape,
            out,
            Strides::rows(e),
            false,
            &s,
            Strides::rows(keys),
            head.k_from(v, tile.keys.start),
            head.k_strides(),
            1.0,
        );
    }
    (o, lse)
}

/// `(dq, dk, dv)` with the shapes of q, k and v.
pub(crate) fn backward(
    x: &BackwardInputs<'_>,
    shape: &AttentionShape,
    spans: &[Span],
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let e = shape.head_dim;
    let heads = heads(shape, spans);
    let parts: Vec<HeadGrads> = heads
        .par_iter()
        .map(|head| backward_head(head, x))
        .collect();
    let (mut dq, mut dk, mut dv) = (
        vec![0f32; x.q.len()],
        vec![0f32; x.k.len()],
        vec![0f32; x.v.len()],
    );
    for (head, part) in heads.iter().zip(&parts) {
        let group = head.index / (shape.heads / shape.kv_heads);
        add_rows(
            &mut dq,
            &part.dq,
            head.span.q.start,
            shape.heads,
            head.index,
            e,
        );
        add_rows(
            &mut dk,
            &part.dk,
            head.span.k.start,
            shape.kv_heads,
            group,
            e,
        );
        add_rows(
            &mut dv,
            &part.dv,
            head.span.k.start,
            shape.kv_heads,
            group,
            e,
        );
    }
    (dq, dk, dv)
}

struct HeadGrads {
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

fn backward_head(head: &Head<'_>, x: &BackwardInputs<'_>) -> HeadGrads {
    let e = head.shape.head_dim;
    let scale = head.shape.scale;
    let (tq, tk) = (head.span.q.len(), head.span.k.len());
    let m = x.lse.len() / head.shape.heads;
    let mut grads = HeadGrads {
        dq: vec![0.0; tq * e],
        dk: vec![0.0; tk * e],
        dv: vec![0.0; tk * e],
    };
    let (mut p, mut dp, mut slopes) = (Vec::new(), Vec::new(), Vec::new());
    for tile in tiles(head.span, head.shape.window) {
        let (rows, keys) = (tile.rows.len(), tile.keys.len());
        head.scores(&tile, x.q, x.k, &mut p);
        // dP = dO V^T has the form of the scores, with V in the place of K.
        head.scores(&tile, x.d_o, x.v, &mut dp);
        for i in 0..rows {
            let row = tile.rows.start + i;
            let lse = x.lse[head.index * m + head.span.q.start + row];
            let delta = dot(&head.q_from(x.d_o, row)[..e], &head.q_from(x.o, row)[..e]);
            let seen = head.seen(&tile, i);
            let p_row = &mut p[i * keys..(i + 1) * keys];
            slopes.clear();
            masked(p_row, seen.clone(), |p| {
                let scale = capped(p, scale, head.shape.cap);
                if let Some(cap) = head.shape.cap {
                    slopes.extend(p.iter().map(|s| 1.0 - (s / cap) * (s / cap)));
                }
                exp_in_place(p, scale, lse);
            });
            masked(&mut dp[i * keys..(i + 1) * keys], seen.clone(), |ds| {
                ds.iter_mut()
                    .zip(&p_row[seen])
                    .for_each(|(ds, p)| *ds = p * (*ds - delta));
                ds.iter_mut()
                    .zip(&slopes)
                    .for_each(|(ds, slope)| *ds *= slope);
            });
        }
        let by_rows = Strides::rows(keys);
        let key_part = tile.keys.start * e..tile.keys.end * e;
        let dq = &mut grads.dq[tile.rows.start * e..tile.rows.end * e];
        matmul(
            (rows, keys, e),
            dq,
            Strides::rows(e),
            false,
            &dp,
            by_rows,
            head.k_from(x.k, tile.keys.start),
            head.k_strides(),
            scale,
        );
        let q_rows = head.q_from(x.q, tile.rows.start);
        matmul(
            (keys, rows, e),
            &mut grads.dk[key_part.clone()],
            Strides::rows(e),
            true,
            &dp,
            by_rows.transposed(),
            q_rows,
            head.q_strides(),
            scale,
        );
        let do_rows = head.q_from(x.d_o, tile.rows.start);
        matmul(
            (keys, rows, e),
            &mut grads.dv[key_part],
            Strides::rows(e),
            true,
            &p,
            by_rows.transposed(),
            do_rows,
            head.q_strides(),
            1.0,
        );
    }
    grads
}
