//! Rotary position embedding in the halves layout of Hugging Face checkpoints.
//!
//! For each pair (a, b) = (x[i], x[i + E/2]) and angle t: (a cos t - b sin t, b cos t + a sin t). The backward
//! pass is the same rotation by -t.

use candle_core::{DType, Device, Tensor};

use crate::Result;
use crate::cpu;
use crate::ops::sequences::Sequences;
use crate::view::{on_cpu, tensor, unwritten, view};

/// Cosines and sines of every position up to a length, [T, E/2] each, in `f32`.
#[derive(Debug, Clone)]
pub struct RopeTable {
    cos: Tensor,
    sin: Tensor,
    head_dim: usize,
}

/// Which way the pairs turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Forward,
    Back,
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

    /// Rotates every head of `x` [M, H*E], a row for each token of `sequences`.
    pub fn forward(&self, x: &Tensor, sequences: &Sequences) -> Result<Tensor> {
        self.turn(x, sequences, Turn::Forward)
    }

    /// The gradient of [`Self::forward`]: the inverse rotation of `dy` [M, H*E].
    pub fn backward(&self, dy: &Tensor, sequences: &Sequences) -> Result<Tensor> {
        self.turn(dy, sequences, Turn::Back)
    }

    fn turn(&self, x: &Tensor, sequences: &Sequences, turn: Turn) -> Result<Tensor> {
        let sign = if turn == Turn::Forward { 1.0 } else { -1.0 };
        #[cfg(feature = "cuda")]
        if let Some(tiles) = sequences.tiles()
            && crate::cuda::applies(&[x])
        {
            return crate::cuda::rope::turn(x, &tiles.positions, (&self.cos, &self.sin), self.head_dim, sign);
        }
        let positions = sequences.positions();
        if !on_cpu(&[x]) {
            return self.reference(x, positions, turn);
        }
        let mut y = unwritten(x.elem_count());
        let tables = (&*view(&self.cos)?, &*view(&self.sin)?);
        cpu::rope::rotate(&view(x)?, &mut y, positions, tables, self.head_dim, sign);
        tensor(y, x.dims())
    }

    fn reference(&self, x: &Tensor, positions: &[u32], turn: Turn) -> Result<Tensor> {
        let (m, width) = x.dims2()?;
        let half = self.head_dim / 2;
        let rows = Tensor::new(positions, x.device())?;
        let pick = |t: &Tensor| t.index_select(&rows, 0)?.reshape((m, 1, half));
        let (cos, sin) = (pick(&self.cos)?, pick(&self.sin)?);
        let sin = if turn == Turn::Forward { sin } else { sin.neg()? };
        let pairs = x.to_dtype(DType::F32)?.reshape((m, width / self.head_dim, 2, half))?;
        let (a, b) = (pairs.narrow(2, 0, 1)?.squeeze(2)?, pairs.narrow(2, 1, 1)?.squeeze(2)?);
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        Tensor::stack(&[first, second], 2)?.reshape((m, width))?.to_dtype(x.dtype())
    }

    /// [`Self::forward`] in candle's operations.
    pub fn reference_forward(&self, x: &Tensor, positions: &[u32]) -> Result<Tensor> {
        self.reference(x, positions, Turn::Forward)
    }

    /// [`Self::backward`] in candle's operations.
    pub fn reference_backward(&self, dy: &Tensor, positions: &[u32]) -> Result<Tensor> {
        self.reference(dy, positions, Turn::Back)
    }
}
