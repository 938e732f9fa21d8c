//! Gradients through linear layers that share an input: what `lora` and `dora` say of dx, summed
//! over the layers.

use candle_core::Tensor;
use qlora_kernels::{Activations, Backend, Term};

use super::dora::DoraGrad;
use super::layer::Linear;
use super::lora::LoraGrad;
use super::saved::AdapterSaved;
use crate::Result;
use crate::lora::{AdapterPass, FactorGrad};

/// The gradient that reaches one layer, and what its forward pass saved.
pub struct LinearGrad<'a> {
    pub linear: &'a Linear,
    /// [M, out]
    pub dy: &'a Activations,
    pub adapter: Option<AdapterPass<'a>>,
    pub saved: Option<&'a AdapterSaved>,
}

/// What goes back through one adapter, of the kind of what that saved.
enum AdapterGrad<'a> {
    Lora(LoraGrad<'a>),
    Dora(DoraGrad<'a>),
}

impl<'a> AdapterGrad<'a> {
    fn find(backend: &dyn Backend, grad: &LinearGrad<'a>) -> Result<Option<Self>> {
        let &LinearGrad { linear, dy, .. } = grad;
        let (Some(adapter), Some(saved)) = (grad.adapter, grad.saved) else {
            return Ok(None);
        };
        Ok(Some(match saved {
            AdapterSaved::Lora(saved) => {
                Self::Lora(LoraGrad::of(backend, linear, dy, adapter, saved)?)
            }
            AdapterSaved::Dora(saved) => {
                Self::Dora(DoraGrad::of(backend, linear, dy, adapter, saved)?)
            }
        }))
    }

    fn factors(&self) -> &LoraGrad<'a> {
        match self {
            Self::Lora(grad) => grad,
            Self::Dora(grad) => &grad.factors,
        }
    }

    /// Terms of dx of an adapter without a mask, from `dy` at its layer.
    fn terms<'t>(&'t self, linear: &'t Linear, dy: &'t Activations) -> [Term<'t>; 2] {
        let dy = match self {
            Self::Lora(_) => dy,
            Self::Dora(grad) => &grad.scaled,
        };
        [linear.frozen(dy), self.factors().update()]
    }

    /// With dA [R, in].
    fn of_factors(self, a: Tensor) -> FactorGrad {
        match self {
            Self::Lora(grad) => grad.of_factors(a),
            Self::Dora(grad) => grad.of_factors(a),
        }
    }
}

/// What goes back through each layer's adapter with its dA, and what is added to the terms of dx.
struct Gradients<'a> {
    adapters: Vec<Option<(AdapterGrad<'a>, Tensor)>>,
    /// The part of dx under masks, summed over the adapters that have one.
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
        let of_lora = found.iter().flatten().filter_map(|own| match own {
            AdapterGrad::Lora(grad) => Some(grad.input()),
            AdapterGrad::Dora(_) => None,
        });
        let (of_a, mut base) = backend.lora_backward(x, &of_lora.collect::<Vec<_>>())?;
        let mut of_a = of_a.into_iter();
        let mut adapters = Vec::with_capacity(grads.len());
        for (grad, found) in grads.iter().zip(found) {
            let da = match &found {
                None => None,
                Some(AdapterGrad::Lora(_)) => of_a.next(),
                Some(AdapterGrad::Dora(own)) => {
                    let at = (grad.linear, grad.dy);
                    let (da, sum) = own.of_input(backend, at, x, base.take())?;
                    base = sum;
                    Some(da)
                }
            };
            adapters.push(found.zip(da));
        }
        Ok(Self { adapters, base })
    }

    fn terms<'t>(&'t self, grads: &'t [LinearGrad<'a>]) -> Vec<Term<'t>> {
        let mut terms = Vec::with_capacity(2 * grads.len());
        for (grad, own) in grads.iter().zip(&self.adapters) {
            match own {
                Some((own, _)) if own.factors().adapter.mask.is_none() => {
                    terms.extend(own.terms(grad.linear, grad.dy));
                }
                _ => terms.push(grad.linear.frozen(grad.dy)),
            }
        }
        terms
    }

    fn of_factors(self) -> Vec<Option<FactorGrad>> {
        let grad = |(own, a): (AdapterGrad<'_>, Tensor)| own.of_factors(a);
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
