//! A frozen norm.

use candle_core::Tensor;
use qlora_kernels::{Activations, Backend, NormWeight};

use crate::Result;

/// The root-mean-square norm (Zhang and Sennrich, 2019) over rows, or over the heads in them.
pub struct Norm {
    weight: Tensor,
    unit_offset: bool,
    epsilon: f64,
}

impl Norm {
    pub fn new(weight: Tensor, unit_offset: bool, epsilon: f64) -> Self {
        Self {
            weight,
            unit_offset,
            epsilon,
        }
    }

    fn weight(&self) -> NormWeight<'_> {
        NormWeight {
            weight: &self.weight,
            unit_offset: self.unit_offset,
        }
    }

    /// `x` [M, D] after the norm, and its rstd [M, 1].
    pub fn forward(&self, backend: &dyn Backend, x: &Tensor) -> Result<(Tensor, Tensor)> {
        Ok(backend.rms_norm_forward(x, self.weight(), self.epsilon)?)
    }

    /// [`Self::forward`] for products.
    pub fn forward_on(&self, backend: &dyn Backend, x: &Tensor) -> Result<(Activations, Tensor)> {
        Ok(backend.rms_norm_forward_on(x, self.weight(), self.epsilon)?)
    }

    /// `base` + dx [M, D] of `dy` [M, D].
    pub fn backward(
        &self,
        backend: &dyn Backend,
        dy: &Tensor,
        x: &Tensor,
        rstd: &Tensor,
        base: Option<&Tensor>,
    ) -> Result<Tensor> {
        Ok(backend.rms_norm_backward(dy, x, self.weight(), rstd, base)?)
    }

    /// [`Self::forward`] over the heads of `x` [M, G*E], and rstd [M*G, 1].
    pub fn forward_heads(&self, backend: &dyn Backend, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let (y, rstd) = self.forward(backend, &self.heads(x)?)?;
        Ok((y.reshape(x.dims())?, rstd))
    }

    /// dx [M, G*E] of `dy` [M, G*E] over heads.
    pub fn backward_heads(
        &self,
        backend: &dyn Backend,
        dy: &Tensor,
        x: &Tensor,
        rstd: &Tensor,
    ) -> Result<Tensor> {
        let dx = self.backward(backend, &self.heads(dy)?, &self.heads(x)?, rstd, None)?;
        Ok(dx.reshape(x.dims())?)
    }

    fn heads(&self, x: &Tensor) -> Result<Tensor> {
        let width = self.weight.elem_count();
        Ok(x.reshape((x.elem_count() / width, width))?)
    }
}
