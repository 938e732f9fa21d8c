//! The layer without its adapter: y = k x W^T + b, where k is a constant of the model.

use std::sync::OnceLock;

use candle_core::{DType, Tensor};
use qlora_kernels::{Activations, Backend, Term};

use crate::Result;
use crate::weights::FrozenWeight;

/// A frozen weight W [out, in], a bias b [out] where there is one, and the scale k.
pub struct Linear {
    weight: Box<dyn FrozenWeight>,
    /// Of the scaled output.
    bias: Option<Tensor>,
    pub(super) scale: f64,
    /// |W|^2 [out], row by row, once it has been needed.
    squares: OnceLock<Tensor>,
}

impl Linear {
    /// `bias` [out] is that of the layer whose output is not scaled yet.
    pub fn new(weight: Box<dyn FrozenWeight>, bias: Option<Tensor>, scale: f64) -> Result<Self> {
        let bias = match bias {
            Some(bias) if scale != 1.0 => Some((bias * scale)?),
            bias => bias,
        };
        Ok(Self {
            weight,
            bias,
            scale,
            squares: OnceLock::new(),
        })
    }

    pub fn bytes(&self) -> usize {
        self.weight.bytes()
    }

    /// See [`Backend::prefetch`].
    pub fn prefetch(&self, backend: &dyn Backend) -> Result<()> {
        Ok(backend.prefetch(&*self.weight)?)
    }

    /// |W| [out], row by row.
    pub fn norms(&self, backend: &dyn Backend) -> Result<Tensor> {
        Ok(self.squares(backend)?.sqrt()?)
    }

    /// |W|^2 [out], row by row.
    pub(super) fn squares(&self, backend: &dyn Backend) -> Result<&Tensor> {
        if let Some(squares) = self.squares.get() {
            return Ok(squares);
        }
        let squares = backend
            .dequantize(&*self.weight, DType::F32)?
            .sqr()?
            .sum(1)?;
        Ok(self.squares.get_or_init(|| squares))
    }

    /// x W^T, without k.
    pub(super) fn unscaled<'a>(&'a self, x: &'a Activations) -> Term<'a> {
        Term {
            x,
            w: &*self.weight,
            scale: 1.0,
        }
    }

    /// k x W^T.
    pub(super) fn frozen<'a>(&'a self, x: &'a Activations) -> Term<'a> {
        Term {
            scale: self.scale,
            ..self.unscaled(x)
        }
    }

    pub(super) fn has_bias(&self) -> bool {
        self.bias.is_some()
    }

    pub(super) fn with_bias(&self, backend: &dyn Backend, y: Tensor) -> Result<Tensor> {
        match &self.bias {
            Some(bias) => Ok(backend.affine(&y, 1.0, Some(bias))?),
            None => Ok(y),
        }
    }
}
