//! Rotary position embedding in the halves layout of Hugging Face checkpoints.
//!
//! For each pair (a, b) = (x[i], x[i + E/2]) and angle t: (a cos t - b sin t, b cos t + a sin t).
//! The backward pass is the same rotation by -t.

use candle_core::{Device, Tensor};

use crate::Result;

/// Cosines and sines of every position up to a length, [T, E/2] each, in `f32`.
#[derive(Debug, Clone)]
pub struct RopeTable {
    pub(crate) cos: Tensor,
    pub(crate) sin: Tensor,
    pub(crate) head_dim: usize,
}

impl RopeTable {
    /// Tables for `positions` 0 to `length` - 1 with the given inverse frequencies [E/2].
    pub fn new(inv_freq: &[f32], length: usize, device: &Device) -> Result<Self> {
        let half = inv_freq.len();
        let angle = |i: usize| (i / half) as f32 * inv_freq[i % half];
        let cos: Vec<f32> = (0..length * half).map(|i| angle(i).cos()).collect();
        let sin: Vec<f32> = (0..length * half).map(|i| angle(i).sin()).collect();
        Ok(Self {
            cos: Tensor::from_vec(cos, (length, half), device)?,
            sin: Tensor::from_vec(sin, (length, half), device)?,
            head_dim: 2 * half,
        })
    }
}
