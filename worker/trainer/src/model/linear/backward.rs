//! Gradients through linear layers that share an input.
//!
//! With dy' = dy, or g o dy with DoRA, and d = k s dy' B:
//! dx = k dy W + c m o (k (dy' - dy) W + d A), summed over the layers.

use candle_core::{DType, Tensor};
use qlora_kernels::{Activations, Backend, LoraBackwardInput, Term};

use super::dora::{dropped, scaled_rows};
use super::{Linear, LoraSaved};
use crate::Result;
use crate::lora::{AdapterPass, FactorGrad};

/// The gradient that reaches one layer, and what its forward pass saved.
pub struct LinearGrad<'a> {
    pub linear: &'a Linear,
    /// [M, out]
    pub dy: &'a Activations,
    pub adapter: Option<AdapterPass<'a>>,
    pub saved: Option<&'a LoraSaved>,
}

/// What goes back through one adapter.
struct AdapterGrad<'a> {
    adapter: AdapterPass<'a>,
    /// k s dy' B [M, R].
    du: Activations,
    /// With DoRA, dy' = g o dy [M, out].
    scaled: Option<Activations>,
    /// dB = k s dy'^T u [out, R].
    b: Tensor,
    /// With DoRA, dm' [out].
    magnitude: Option<Tensor>,
}

impl<'a> AdapterGrad<'a> {
    fn find(backend: &dyn Backend, grad: &LinearGrad<'a>) -> Result<Option<Self>> {
        let (Some(adapter), Some(saved)) = (grad.adapter, grad.saved) else {
            return Ok(None);
        };
        let ratio = grad.linear.ratio(backend, &adapter)?;
        let scaled = match &ratio {
            Some(ratio) => Some(Activations::from(scaled_rows(grad.dy.tensor()?, ratio)?)),
            None => None,
        };
        let dy = scaled.as_ref().unwrap_or(grad.dy);
        let scale = grad.linear.scale * adapter.scale;
        let inner = Term {
            x: dy,
            w: &adapter.factors.b,
            scale,
        };
        let du = backend.matmul_backward(&[inner], None)?.into();
        let b = backend.weight_gradient(dy, &saved.u, scale)?;
        let magnitude = magnitude_grad(backend, grad, &adapter, saved)?;
        Ok(Some(Self {
            adapter,
            du,
            scaled,
            b,
            magnitude,
        }))
    }

    /// d A.
    fn update(&self) -> Term<'_> {
        Term {
            x: &self.du,
            w: &self.adapter.factors.a,
            scale: 1.0,
        }
    }

    /// With DoRA, dA, and `base` + c m o (k (dy' - dy) W + d A) where there is a mask.
    fn decomposed(
        &self,
        backend: &dyn Backend,
        grad: &LinearGrad<'_>,
        x: &Activations,
        scaled: &Activations,
        base: Option<Tensor>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let dropped = dropped(backend, x, &self.adapter)?;
        let da = backend.weight_gradient(&self.du, dropped.as_ref().unwrap_or(x), 1.0)?;
        let Some(key) = &self.adapter.mask else {
            return Ok((da, base));
        };
        let change = (scaled.tensor()? - grad.dy.tensor()?)?.into();
        let terms = [grad.linear.frozen(&change), self.update()];
        let masked = backend.matmul_backward(&terms, None)?;
        Ok((da, Some(backend.add_dropout(&masked, key, base.as_ref())?)))
    }
}

/// With n the norm, g = m' / n and dm' = sum of dy o r / n over the tokens.
fn magnitude_grad(
    backend: &dyn Backend,
    grad: &LinearGrad<'_>,
    adapter: &AdapterPass<'_>,
    saved: &LoraSaved,
) -> Result<Option<Tensor>> {
    let (Some(unscaled), Some(own)) = (&saved.unscaled, &adapter.factors.magnitude) else {
        return Ok(None);
    };
    let norms = own.norms(|| grad.linear.norms_with(backend, adapter))?;
    let sums = (grad.dy.tensor()? * unscaled)?
        .to_dtype(DType::F32)?
        .sum(0)?;
    Ok(Some((sums / norms)?))
}

/// Terms of dx, what is added to them, and dA of each layer's adapter.
struct Gradients<'a> {
    adapters: Vec<Option<(AdapterGrad<'a>, Tensor)>>,
    /// c m o (k (dy' - dy) W + d A), summed over the adapters with a mask.
    base: Option<Tensor>,
}

impl<'a> Gradients<'a> {
    fn find(
        backend: &dyn Backend,
        grads: &[LinearGrad<'a>],
        x: Option<&Activations>,
    ) -> Result<Self> {
        let Some(x) = x else {
            return Ok(Self {
                adapters: grads.iter().map(|_| None).collect(),
                base: None,
            });
        };
        let found = grads
            .iter()
            .map(|grad| AdapterGrad::find(backend, grad))
            .collect::<Result<Vec<_>>>()?;
        let plain = found.iter().flatten().filter(|own| own.scaled.is_none());
        let plain: Vec<_> = plain
            .map(|own| LoraBackwardInput {
                adapter: own.adapter.input(),
                du: &own.du,
            })
            .collect();
        let (of_a, mut base) = backend.lora_backward(x, &plain)?;
        let mut of_a = of_a.into_iter();
        let mut adapters = Vec::with_capacity(grads.len());
        for (grad, found) in grads.iter().zip(found) {
            let Some(found) = found else {
                adapters.push(None);
                continue;
            };
            let da = match &found.scaled {
                None => of_a.next(),
                Some(scaled) => {
                    let (da, sum) = found.decomposed(backend, grad, x, scaled, base.take())?;
                    base = sum;
                    Some(da)
                }
            };
            adapters.push(da.map(|da| (found, da)));
        }
        Ok(Self { adapters, base })
    }

    fn terms<'t>(&'t self, grads: &'t [LinearGrad<'a>]) -> Vec<Term<'t>> {
        let mut terms = Vec::with_capacity(2 * grads.len());
        for (grad, own) in grads.iter().zip(&self.adapters) {
            match own {
                Some((own, _)) if own.adapter.mask.is_none() => {
                    let dy = own.scaled.as_ref().unwrap_or(grad.dy);
                    terms.extend([grad.linear.frozen(dy), own.update()]);
                }
                _ => terms.push(grad.linear.frozen(grad.dy)),
            }
        }
        terms
    }

    fn of_factors(self) -> Vec<Option<FactorGrad>> {
        let grad = |(own, a): (AdapterGrad<'_>, Tensor)| FactorGrad {
            a,
            b: own.b,
            magnitude: own.magnitude,
        };
        self.adapters.into_iter().map(|own| own.map(grad)).collect()
    }
}

/// Gradients through layers that share their input `x` [M, in], which only adapters need: dx
/// [M, in], and the gradients of each one's adapter.
pub fn backward(
    backend: &dyn Backend,
    grads: &[LinearGrad<'_>],
    x: Option<&Activations>,
) -> Result<(Tensor, Vec<Option<FactorGrad>>)> {
    let found = Gradients::find(backend, grads, x)?;
    let dx = backend.matmul_backward(&found.terms(grads), found.base.as_ref())?;
    Ok((dx, found.of_factors()))
}

/// [`backward`] for a gradient that goes on to other products: see [`Backend::matmul_backward_on`].
pub fn backward_on(
    backend: &dyn Backend,
    grads: &[LinearGrad<'_>],
    x: Option<&Activations>,
) -> Result<(Activations, Vec<Option<FactorGrad>>)> {
    let found = Gradients::find(backend, grads, x)?;
    let terms = found.terms(grads);
    let dx = match &found.base {
        None => backend.matmul_backward_on(&terms)?,
        Some(base) => backend.matmul_backward(&terms, Some(base))?.into(),
    };
    Ok((dx, found.of_factors()))
}
