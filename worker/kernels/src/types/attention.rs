//! Sizes of an attention layer, and what its backward pass reads.

use std::hash::{Hash, Hasher};

use candle_core::Tensor;

/// Sizes of heads that the kernels of a GPU of CUDA compute attention of, under a soft cap and in a
/// window too. For others its backend takes the reference form.
pub const CUDA_HEADS: [usize; 8] = [16, 32, 48, 64, 80, 96, 128, 256];

/// The sizes and constants of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Query heads, H.
    pub heads: usize,
    /// Key and value heads, K; H is a multiple of it.
    pub kv_heads: usize,
    /// Size of one head, E.
    pub head_dim: usize,
    /// A token sees itself and the `window - 1` tokens before it.
    pub window: Option<usize>,
    /// What scores are multiplied with.
    pub scale: f32,
    /// A soft cap on the scaled scores: s becomes cap * tanh(s / cap).
    pub cap: Option<f32>,
}

impl AttentionShape {
    /// Without window and cap, and with the scale 1 / sqrt(E) (Vaswani et al., 2017).
    pub fn new(heads: usize, kv_heads: usize, head_dim: usize) -> Self {
        Self {
            heads,
            kv_heads,
            head_dim,
            window: None,
            scale: 1.0 / (head_dim as f32).sqrt(),
            cap: None,
        }
    }
}

/// Neither constant is ever NaN.
impl Eq for AttentionShape {}

impl Hash for AttentionShape {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let sizes = (self.heads, self.kv_heads, self.head_dim, self.window);
        let constants = (self.scale.to_bits(), self.cap.map(f32::to_bits));
        (sizes, constants).hash(state);
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
