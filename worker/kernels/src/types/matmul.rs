//! Products: their terms, and which code multiplies.

use crate::types::activations::Activations;
use crate::types::instructions::Instructions;
use crate::types::matrix::Matrix;

/// One product of a sum: `x` times `scale` times the matrix.
#[derive(Clone, Copy)]
pub struct Term<'a> {
    pub x: &'a Activations,
    pub w: &'a dyn Matrix,
    pub scale: f64,
}

/// What multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatmulBackend {
    /// The reference form: a matrix is dequantized to the element type of the activations, and
    /// candle multiplies.
    Dequantized,
    /// Our kernels on a CPU, in bf16 with `f32` sums: a matrix is unpacked a panel at a time.
    Panels(Instructions),
    /// cuBLASLt on a GPU, in bf16 with `f32` sums.
    CublasLt,
}
