//! Sizes of an attention layer, and what its backward pass reads.

use candle_core::Tensor;

/// The sizes of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AttentionShape {
    /// Query heads, H.
    pub heads: usize,
    /// Key and value heads, K; H is a multiple of it.
    pub kv_heads: usize,
    /// Size of one head, E.
    pub head_dim: usize,
    /// A token sees itself and the `window - 1` tokens before it.
    pub window: Option<usize>,
}

impl AttentionShape {
    /// Scores are multiplied by 1 / sqrt(E).
    pub fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
}

/// What the backward pass needs from the forward pass.
#[derive(Debug, Clone, Copy)]
pub struct AttentionSaved<'a> {
    pub q: &'a Tensor,
    pub k: &'a Tensor,
    pub v: &'a Tensor,
    pub o: &'a Tensor,
    /// The log-sum-exp of the scores, as the forward pass of the same backend gave it.
    pub lse: &'a Tensor,
}
