//! A frozen linear layer with its adapter: y = x W^T + s (m o x) A^T B^T / (1 - p).

use candle_core::{DType, Tensor};
use qlora_kernels::ops::dropout;
use qlora_kernels::{Activations, DropoutKey, Products, Term};

use crate::Result;
use crate::lora::{AdapterGrad, LoraPair};
use crate::weights::FrozenWeight;

/// A frozen weight [out, in]; adapters are kept elsewhere and passed in.
pub struct Projection {
    weight: Box<dyn FrozenWeight>,
}

/// The adapter of one projection in one pass.
#[derive(Clone, Copy)]
pub struct AdapterPass<'a> {
    pub pair: &'a LoraPair,
    /// See [`qlora_config::LoraConfig::scale`].
    pub scale: f64,
    /// The dropout mask; none outside training.
    pub mask: Option<DropoutKey>,
}

impl AdapterPass<'_> {
    /// `x` after its mask; none where there is no mask.
    fn dropped(&self, x: &Tensor) -> Result<Option<Activations>> {
        self.mask.as_ref().map(|key| Ok(dropout::apply(x, key)?.into())).transpose()
    }

    /// u = (m o x) A^T c: what the forward pass returns beside `y`.
    pub(crate) fn inner(&self, products: Products, x: &Activations) -> Result<Activations> {
        let dropped = self.dropped(x)?;
        let term = Term { x: dropped.as_ref().unwrap_or(x), w: &self.pair.a, scale: 1.0 };
        Ok(products.forward(&[term], None)?.into())
    }

    /// Gradients of A and B, given du = s dy B: dA = du^T (m o x) c; dB = s dy^T u.
    fn grad(&self, products: Products, dy: &Tensor, du: &Tensor, x: &Tensor, u: &Tensor) -> Result<AdapterGrad> {
        let (du, u) = (du.t()?.contiguous()?.into(), u.t()?.contiguous()?.into());
        let dropped = self.dropped(x)?;
        let a = products.backward(&[Term { x: &du, w: dropped.as_deref().unwrap_or(x), scale: 1.0 }], None)?;
        let b = products.backward(&[Term { x: &u, w: dy, scale: self.scale }], None)?;
        Ok(AdapterGrad { a: a.to_dtype(DType::F32)?, b: b.t()?.contiguous()?.to_dtype(DType::F32)? })
    }
}

impl Projection {
    pub fn new(weight: Box<dyn FrozenWeight>) -> Self {
        Self { weight }
    }

    pub fn bytes(&self) -> usize {
        self.weight.bytes()
    }

    /// `x` [M, in] to `base` + `y` [M, out], and `u` [M, R], the adapter's inner value, where there is an adapter.
    pub fn forward(
        &self,
        products: Products,
        x: &Activations,
        adapter: Option<AdapterPass<'_>>,
        base: Option<&Tensor>,
    ) -> Result<(Tensor, Option<Activations>)> {
        let frozen = Term { x, w: &*self.weight, scale: 1.0 };
        let Some(adapter) = adapter else { return Ok((products.forward(&[frozen], base)?, None)) };
        let u = adapter.inner(products, x)?;
        let update = Term { x: &u, w: &adapter.pair.b, scale: adapter.scale };
        let y = products.forward(&[frozen, update], base)?;
        Ok((y, Some(u)))
    }
}

/// The gradient that reaches one projection, and what its forward pass left.
pub struct Pull<'a> {
    pub projection: &'a Projection,
    /// [M, out]
    pub dy: &'a Activations,
    pub adapter: Option<AdapterPass<'a>>,
    /// [M, R]
    pub u: Option<&'a Activations>,
}

/// Gradients through projections that share their input `x` [M, in]: dx [M, in], and the gradients of each
/// one's adapter.
///
/// With d = s dy B: dx = dy W + c m o (d A), summed over the projections.
pub fn backward(products: Products, pulls: &[Pull<'_>], x: &Tensor) -> Result<(Tensor, Vec<Option<AdapterGrad>>)> {
    let mut grads = Vec::with_capacity(pulls.len());
    let mut inner = Vec::new();
    for pull in pulls {
        let (Some(adapter), Some(u)) = (pull.adapter, pull.u) else {
            grads.push(None);
            continue;
        };
        let du = products.backward(&[Term { x: pull.dy, w: &adapter.pair.b, scale: adapter.scale }], None)?;
        grads.push(Some(adapter.grad(products, pull.dy, &du, x, u)?));
        inner.push((Activations::from(du), adapter));
    }
    let mut base: Option<Tensor> = None;
    let mut terms: Vec<_> = pulls.iter().map(|p| Term { x: p.dy, w: &*p.projection.weight, scale: 1.0 }).collect();
    for (du, adapter) in &inner {
        let update = Term { x: du, w: &adapter.pair.a, scale: 1.0 };
        match &adapter.mask {
            None => terms.push(update),
            Some(key) => base = Some(dropout::add(&products.backward(&[update], None)?, key, base.as_ref())?),
        }
    }
    Ok((products.backward(&terms, base.as_ref())?, grads))
}
