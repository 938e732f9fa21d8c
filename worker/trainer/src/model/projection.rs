//! A frozen linear layer with its adapter: y = x W^T + s (m o x) A^T B^T / (1 - p).

use candle_core::{DType, Tensor};
use qlora_kernels::ops::dropout;
use qlora_kernels::{DropoutKey, Linear};

use crate::Result;
use crate::lora::{AdapterGrad, LoraPair};
use crate::weights::Frozen;

/// A frozen weight [out, in]; adapters are kept elsewhere and passed in.
pub struct Projection {
    weight: Frozen,
}

/// The adapter of one projection in one pass.
#[derive(Clone, Copy)]
pub struct AdapterPass<'a> {
    pub pair: &'a LoraPair,
    /// alpha / r.
    pub scale: f64,
    /// The dropout mask; none outside training.
    pub mask: Option<DropoutKey>,
}

impl AdapterPass<'_> {
    fn dropped(&self, x: &Tensor) -> Result<Tensor> {
        match &self.mask {
            Some(key) => Ok(dropout::apply(x, key)?),
            None => Ok(x.clone()),
        }
    }

    /// u = (m o x) A^T c: what the forward pass returns beside `y`.
    pub(crate) fn inner(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.dropped(x)?.matmul(&self.pair.a.to_dtype(x.dtype())?.t()?)?)
    }

    fn matrices(&self, dtype: DType) -> Result<(Tensor, Tensor)> {
        Ok((self.pair.a.to_dtype(dtype)?, self.pair.b.to_dtype(dtype)?))
    }
}

impl Projection {
    pub fn new(weight: Frozen) -> Self {
        Self { weight }
    }

    /// (out, in).
    pub fn shape(&self) -> (usize, usize) {
        self.weight.shape()
    }

    pub fn bytes(&self) -> usize {
        self.weight.bytes()
    }

    /// `x` [M, in] to `y` [M, out], and `u` [M, R], the adapter's inner value, where there is an adapter.
    pub fn forward(&self, x: &Tensor, adapter: Option<AdapterPass<'_>>) -> Result<(Tensor, Option<Tensor>)> {
        let y = self.weight.forward(x)?;
        let Some(adapter) = adapter else { return Ok((y, None)) };
        let u = adapter.inner(x)?;
        let b = adapter.pair.b.to_dtype(x.dtype())?;
        let update = ((&u * adapter.scale)?.matmul(&b.t()?))?;
        Ok(((y + update)?, Some(u)))
    }

    /// `dy` [M, out] to `dx` [M, in] and the gradients of the adapter. `x` and `u` are those of the forward pass.
    ///
    /// With d = s dy B: dB = s dy^T u; dA = d^T (m o x) c; dx = dy W + c m o (d A).
    pub fn backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        u: Option<&Tensor>,
        adapter: Option<AdapterPass<'_>>,
    ) -> Result<(Tensor, Option<AdapterGrad>)> {
        let dx = self.weight.backward(dy)?;
        let (Some(adapter), Some(u)) = (adapter, u) else { return Ok((dx, None)) };
        let (a, b) = adapter.matrices(dy.dtype())?;
        let du = (dy.matmul(&b)? * adapter.scale)?;
        let grad = AdapterGrad {
            a: du.t()?.matmul(&adapter.dropped(x)?)?.to_dtype(DType::F32)?,
            b: (dy.t()?.matmul(u)? * adapter.scale)?.to_dtype(DType::F32)?,
        };
        let dx = (dx + adapter.dropped(&du.matmul(&a)?)?)?;
        Ok((dx, Some(grad)))
    }
}
