//! Matrices that are multiplied with and get no gradient, in the form in which each is stored.

use std::ops::Range;

use candle_core::{DType, Tensor};

use crate::Result;
use crate::types::activations::Activations;
use crate::types::nf4::Nf4Tensor;

/// A matrix [N, K] that a product reads.
pub trait Matrix {
    /// (N, K).
    fn shape(&self) -> (usize, usize);

    /// What a backend dequantizes, or reads as it is.
    fn stored(&self) -> Stored<'_>;
}

/// How a matrix is stored.
#[derive(Clone, Copy)]
pub enum Stored<'a> {
    /// In `f32`, f16 or bf16.
    Floats(&'a Tensor),
    Activations(&'a Activations),
    Nf4(&'a Nf4Tensor),
    /// In blocks that only their own code reads.
    Blocks(&'a dyn BlockMatrix),
}

/// A matrix in a block format of its own, as GGUF files have them.
pub trait BlockMatrix {
    /// The matrix as a tensor of `dtype`, on the device that holds it.
    fn dequantize(&self, dtype: DType) -> Result<Tensor>;

    /// `scale` times the matrix in panels.
    ///
    /// # Errors
    /// It is not in host memory.
    fn panels(&self, scale: f32) -> Result<Box<dyn PanelSource + '_>>;
}

/// A matrix [N, K] in host memory that gives any part of itself in bf16.
pub trait PanelSource: Sync {
    /// (N, K).
    fn shape(&self) -> (usize, usize);

    /// Column ranges start at multiples of this.
    fn grain(&self) -> usize;

    /// Writes `rows` x `cols` into `out`, row `i` of the part from `i * stride` on, as bits of
    /// bf16. It runs on the calling thread alone, which may hold tile registers.
    fn unpack(&self, rows: Range<usize>, cols: Range<usize>, out: &mut [u16], stride: usize);
}

impl Matrix for Tensor {
    fn shape(&self) -> (usize, usize) {
        self.dims2().unwrap_or_default()
    }

    fn stored(&self) -> Stored<'_> {
        Stored::Floats(self)
    }
}

impl Matrix for Nf4Tensor {
    fn shape(&self) -> (usize, usize) {
        self.dims()
    }

    fn stored(&self) -> Stored<'_> {
        Stored::Nf4(self)
    }
}

/// A gradient of weights is a product of activations with activations.
impl Matrix for Activations {
    fn shape(&self) -> (usize, usize) {
        self.dims2().unwrap_or_default()
    }

    fn stored(&self) -> Stored<'_> {
        Stored::Activations(self)
    }
}
