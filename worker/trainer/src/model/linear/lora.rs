//! LoRA (Hu et al., 2021): y = k (x W^T + s u B^T) with u = c (m o x) A^T, where m is the dropout
//! mask and c = 1 / (1 - p).
//!
//! With d = k s dy B: dB = k s dy^T u, dA = d^T c (m o x), dx = k dy W + c m o (d A).

use candle_core::Tensor;
use qlora_kernels::{Activations, Backend, LoraBackwardInput, Term};

use super::layer::Linear;
use crate::Result;
use crate::lora::{AdapterPass, FactorGrad};

/// What the forward pass of an adapter of LoRA saves.
pub struct LoraSaved {
    /// u [M, R].
    pub(super) u: Activations,
}

impl LoraSaved {
    /// For each of `adapters`, which share the input `x` [M, in].
    pub(super) fn of_all(
        backend: &dyn Backend,
        x: &Activations,
        adapters: &[AdapterPass<'_>],
    ) -> Result<Vec<Self>> {
        let inputs: Vec<_> = adapters.iter().map(AdapterPass::input).collect();
        let found = backend.lora_forward(x, &inputs)?;
        Ok(found.into_iter().map(|u| Self { u }).collect())
    }

    pub(super) fn of(
        backend: &dyn Backend,
        x: &Activations,
        adapter: AdapterPass<'_>,
    ) -> Result<Self> {
        let nothing = || candle_core::Error::Msg("an adapter saves nothing".into());
        let found = Self::of_all(backend, x, &[adapter])?.pop();
        Ok(found.ok_or_else(nothing)?)
    }

    /// y of `x` [M, in] as a sum.
    pub(super) fn terms<'a>(
        &'a self,
        linear: &'a Linear,
        x: &'a Activations,
        adapter: &AdapterPass<'a>,
    ) -> [Term<'a>; 2] {
        [linear.frozen(x), update(linear, adapter, &self.u)]
    }
}

/// k s u B^T.
pub(super) fn update<'a>(
    linear: &Linear,
    adapter: &AdapterPass<'a>,
    u: &'a Activations,
) -> Term<'a> {
    Term {
        x: u,
        w: &adapter.factors.b,
        scale: linear.scale * adapter.scale,
    }
}

/// What goes back through the factors of an adapter.
pub(super) struct LoraGrad<'a> {
    pub adapter: AdapterPass<'a>,
    /// d [M, R].
    pub du: Activations,
    /// dB [out, R].
    b: Tensor,
}

impl<'a> LoraGrad<'a> {
    /// From `dy` [M, out].
    pub fn of(
        backend: &dyn Backend,
        linear: &Linear,
        dy: &Activations,
        adapter: AdapterPass<'a>,
        saved: &LoraSaved,
    ) -> Result<Self> {
        let outer = update(linear, &adapter, dy);
        let scale = outer.scale;
        let du = backend.matmul_backward(&[outer], None)?.into();
        let b = backend.weight_gradient(dy, &saved.u, scale)?;
        Ok(Self { adapter, du, b })
    }

    /// d A.
    pub fn update(&self) -> Term<'_> {
        Term {
            x: &self.du,
            w: &self.adapter.factors.a,
            scale: 1.0,
        }
    }

    /// What dA and dx are computed from.
    pub fn input(&self) -> LoraBackwardInput<'_> {
        LoraBackwardInput {
            adapter: self.adapter.input(),
            du: &self.du,
        }
    }

    /// With dA [R, in].
    pub fn of_factors(self, a: Tensor) -> FactorGrad {
        FactorGrad {
            a,
            b: self.b,
            magnitude: None,
        }
    }
}
