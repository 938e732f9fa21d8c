//! What the forms of attention on a CPU share: heads, and where their rows lie.

use crate::types::attention::AttentionShape;
use crate::types::sequences::Span;

/// One query head of one span, and where its rows lie.
pub(crate) struct Head<'a> {
    pub shape: &'a AttentionShape,
    pub span: &'a Span,
    pub index: usize,
}

impl Head<'_> {
    /// Elements of a [M, H*E] tensor from row `i` of the span on.
    pub(crate) fn q_from<'x>(&self, x: &'x [f32], i: usize) -> &'x [f32] {
        let e = self.shape.head_dim;
        &x[(self.span.q.start + i) * self.shape.heads * e + self.index * e..]
    }

    /// Elements of a [M', K*E] tensor from key `j` of the span on.
    pub(crate) fn k_from<'x>(&self, x: &'x [f32], j: usize) -> &'x [f32] {
        let e = self.shape.head_dim;
        let group = self.index / (self.shape.heads / self.shape.kv_heads);
        &x[(self.span.k.start + j) * self.shape.kv_heads * e + group * e..]
    }
}

pub(crate) fn heads<'a>(shape: &'a AttentionShape, spans: &'a [Span]) -> Vec<Head<'a>> {
    spans
        .iter()
        .flat_map(|span| (0..shape.heads).map(move |index| Head { shape, span, index }))
        .collect()
}

/// Everything that the backward pass reads; shapes as in
/// [`AttentionSaved`](crate::types::attention::AttentionSaved).
pub(crate) struct BackwardInputs<'a> {
    pub d_o: &'a [f32],
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
    pub o: &'a [f32],
    pub lse: &'a [f32],
}

/// Adds the rows of `src` [T, E] to head `head` of `dst` [M, heads*E], from row `start` on.
pub(crate) fn add_rows(
    dst: &mut [f32],
    src: &[f32],
    start: usize,
    heads: usize,
    head: usize,
    e: usize,
) {
    for (i, row) in src.chunks_exact(e).enumerate() {
        let at = ((start + i) * heads + head) * e;
        dst[at..at + e]
            .iter_mut()
            .zip(row)
            .for_each(|(d, s)| *d += s);
    }
}
