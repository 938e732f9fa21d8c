//! A frozen linear layer with its adapter: y = k (x W^T + s u B^T) + b with u = c (m o x) A^T,
//! where m is the dropout mask, c = 1 / (1 - p), and k a constant of the model.
//!
//! `dora` holds what DoRA does otherwise, `backward` the gradients. Adapters are kept elsewhere and
//! passed in.

mod backward;
mod dora;

use std::sync::OnceLock;

use candle_core::Tensor;
use qlora_kernels::{Activations, Backend, Term};

use crate::Result;
use crate::lora::AdapterPass;
use crate::weights::FrozenWeight;

pub use backward::{LinearGrad, backward, backward_on};

/// A frozen weight W [out, in], a bias b [out] where there is one, and the scale k.
pub struct Linear {
    weight: Box<dyn FrozenWeight>,
    /// Of the scaled output.
    bias: Option<Tensor>,
    scale: f64,
    /// |W|^2 [out], row by row, once it has been needed.
    squares: OnceLock<Tensor>,
}

/// What the forward pass of an adapter saves for its backward pass.
pub struct LoraSaved {
    /// u [M, R].
    u: Activations,
    /// With DoRA, r [M, out].
    unscaled: Option<Tensor>,
}

impl LoraSaved {
    /// Whether it is small, and enough to run the adapter again.
    pub fn is_small(&self) -> bool {
        self.unscaled.is_none()
    }
}

/// What adapters that share the input `x` save, where it is not `known`; one with DoRA needs its
/// layer too.
pub fn lora_forward(
    backend: &dyn Backend,
    x: &Activations,
    adapters: &[Option<AdapterPass<'_>>],
    known: &mut [Option<LoraSaved>],
) -> Result<()> {
    let asked = |i: &usize| {
        known[*i].is_none() && adapters[*i].is_some_and(|adapter| !adapter.is_decomposed())
    };
    let places: Vec<usize> = (0..adapters.len()).filter(asked).collect();
    let inputs: Vec<_> = places
        .iter()
        .filter_map(|&i| adapters[i].map(|adapter| adapter.input()))
        .collect();
    for (i, u) in places.into_iter().zip(backend.lora_forward(x, &inputs)?) {
        known[i] = Some(LoraSaved { u, unscaled: None });
    }
    Ok(())
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

    /// k x W^T.
    fn frozen<'a>(&'a self, x: &'a Activations) -> Term<'a> {
        Term {
            x,
            w: &*self.weight,
            scale: self.scale,
        }
    }

    /// k s u B^T.
    fn update<'a>(&self, adapter: &'a AdapterPass<'_>, u: &'a Activations) -> Term<'a> {
        Term {
            x: u,
            w: &adapter.factors.b,
            scale: self.scale * adapter.scale,
        }
    }

    /// `x` [M, in] to `base` + `y` [M, out], and what the adapter saves where there is one; `known`
    /// is what it saved in an earlier pass over the same rows.
    pub fn forward(
        &self,
        backend: &dyn Backend,
        x: &Activations,
        adapter: Option<AdapterPass<'_>>,
        known: Option<LoraSaved>,
        base: Option<&Tensor>,
    ) -> Result<(Tensor, Option<LoraSaved>)> {
        let (y, saved) = self.without_bias(backend, x, adapter, known, base)?;
        Ok((self.with_bias(backend, y)?, saved))
    }

    fn without_bias(
        &self,
        backend: &dyn Backend,
        x: &Activations,
        adapter: Option<AdapterPass<'_>>,
        known: Option<LoraSaved>,
        base: Option<&Tensor>,
    ) -> Result<(Tensor, Option<LoraSaved>)> {
        let Some(adapter) = adapter else {
            return Ok((backend.matmul_forward(&[self.frozen(x)], base)?, None));
        };
        if adapter.is_decomposed() {
            return self.forward_decomposed(backend, x, adapter, base);
        }
        let saved = known.map_or_else(|| self.lora_forward(backend, x, &adapter), Ok)?;
        let terms = [self.frozen(x), self.update(&adapter, &saved.u)];
        Ok((backend.matmul_forward(&terms, base)?, Some(saved)))
    }

    fn with_bias(&self, backend: &dyn Backend, y: Tensor) -> Result<Tensor> {
        match &self.bias {
            Some(bias) => Ok(backend.affine(&y, 1.0, Some(bias))?),
            None => Ok(y),
        }
    }

    /// [`Self::forward`] for a result that goes on to other products: see
    /// [`Backend::matmul_forward_on`].
    pub fn forward_on(
        &self,
        backend: &dyn Backend,
        x: &Activations,
        adapter: Option<AdapterPass<'_>>,
        known: Option<LoraSaved>,
    ) -> Result<(Activations, Option<LoraSaved>)> {
        if self.bias.is_some() || adapter.is_some_and(|adapter| adapter.is_decomposed()) {
            let (y, saved) = self.forward(backend, x, adapter, known, None)?;
            return Ok((y.into(), saved));
        }
        let Some(adapter) = adapter else {
            return Ok((backend.matmul_forward_on(&[self.frozen(x)])?, None));
        };
        let saved = known.map_or_else(|| self.lora_forward(backend, x, &adapter), Ok)?;
        let terms = [self.frozen(x), self.update(&adapter, &saved.u)];
        Ok((backend.matmul_forward_on(&terms)?, Some(saved)))
    }

    /// What [`Self::forward`] would save, without `y`.
    pub fn lora_forward(
        &self,
        backend: &dyn Backend,
        x: &Activations,
        adapter: &AdapterPass<'_>,
    ) -> Result<LoraSaved> {
        if adapter.is_decomposed() {
            return self.saved_decomposed(backend, x, adapter);
        }
        match backend.lora_forward(x, &[adapter.input()])?.pop() {
            Some(u) => Ok(LoraSaved { u, unscaled: None }),
            None => Err(candle_core::Error::Msg("an adapter saves nothing".into()).into()),
        }
    }
}

#[cfg(test)]
mod tests;
