//! Rotary position embedding in the halves layout of Hugging Face checkpoints.
//!
//! For each pair (a, b) = (x[i], x[i + P]) of the first 2 P elements of a head and angle t:
//! (a cos t - b sin t, b cos t + a sin t), times a constant factor; P is E/2, or less where a part
//! of a head is rotated, and the rest of the head stays. The backward pass is the same rotation by
//! -t, times the same factor.

use candle_core::{Device, Tensor};

use crate::Result;

/// The angles of a rotary embedding, and which part of a head they rotate.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeAngles {
    /// Radians a position, [P].
    pub inv_freq: Vec<f32>,
    /// E; at least 2 P.
    pub head_dim: usize,
    /// What cosines and sines are multiplied with: YaRN's attention factor (Peng et al., 2023), and
    /// 1 elsewhere.
    pub factor: f32,
}

/// Cosines and sines of every position up to a length, [T, P] each, in `f32`.
#[derive(Debug, Clone)]
pub struct RopeTable {
    pub(crate) cos: Tensor,
    pub(crate) sin: Tensor,
    pub(crate) head_dim: usize,
}

impl RopeTable {
    /// Tables for positions 0 to `length` - 1.
    pub fn new(angles: &RopeAngles, length: usize, device: &Device) -> Result<Self> {
        let (pairs, factor) = (angles.inv_freq.len(), angles.factor);
        if 2 * pairs > angles.head_dim {
            candle_core::bail!("{pairs} pairs of a head of {}", angles.head_dim)
        }
        let angle = |i: usize| (i / pairs) as f32 * angles.inv_freq[i % pairs];
        let cos: Vec<f32> = (0..length * pairs)
            .map(|i| angle(i).cos() * factor)
            .collect();
        let sin: Vec<f32> = (0..length * pairs)
            .map(|i| angle(i).sin() * factor)
            .collect();
        Ok(Self {
            cos: Tensor::from_vec(cos, (length, pairs), device)?,
            sin: Tensor::from_vec(sin, (length, pairs), device)?,
            head_dim: angles.head_dim,
        })
    }

    /// P.
    pub(crate) fn pairs(&self) -> Result<usize> {
        self.cos.dim(1)
    }
}
