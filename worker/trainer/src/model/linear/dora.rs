//! DoRA (Liu et al., 2024): the rows of W + s B A are scaled by g = m' / n with n = |W + s B A|.
//!
//! As in PEFT, dropout touches only what the adapter changes, and the norm is a constant to the
//! gradient: with x' = c (m o x) and r = k (x' W^T + s u B^T), y = k (x - x') W^T + g o r.
//!
//! The factors get the gradients that LoRA gives them for dy' = g o dy. dm' = sum of dy o r / n over
//! the tokens, and dx = k dy W + c m o (k (dy' - dy) W + d A).

use candle_core::{DType, Tensor};
use qlora_kernels::{Activations, Backend, Term};

use super::layer::Linear;
use super::lora::{LoraGrad, LoraSaved};
use crate::Result;
use crate::lora::{AdapterPass, FactorGrad, Factors, Magnitude};

/// What the forward pass of an adapter of DoRA saves.
pub struct DoraSaved {
    /// Of x'.
    factors: LoraSaved,
    /// r [M, out].
    unscaled: Tensor,
    /// g [out].
    ratio: Tensor,
    /// n [out].
    norms: Tensor,
}

impl DoraSaved {
    /// Of the input `x` [M, in].
    pub(super) fn of(
        backend: &dyn Backend,
        linear: &Linear,
        x: &Activations,
        (adapter, magnitude): (AdapterPass<'_>, &Magnitude),
    ) -> Result<Self> {
        let dropped = dropped(backend, x, &adapter)?;
        let x = dropped.as_ref().unwrap_or(x);
        Self::of_dropped(backend, linear, x, (adapter, magnitude))
    }

    /// Of x' [M, in].
    fn of_dropped(
        backend: &dyn Backend,
        linear: &Linear,
        dropped: &Activations,
        (adapter, magnitude): (AdapterPass<'_>, &Magnitude),
    ) -> Result<Self> {
        let inner = Term {
            x: dropped,
            w: &adapter.factors.a,
            scale: 1.0,
        };
        let u = backend.matmul_forward(&[inner], None)?.into();
        let factors = LoraSaved { u };
        let unscaled = backend.matmul_forward(&factors.terms(linear, dropped, &adapter), None)?;
        let norms = magnitude.norms(|| norms_with(backend, linear, &adapter))?;
        Ok(Self {
            factors,
            unscaled,
            ratio: (&magnitude.value / norms)?,
            norms: norms.clone(),
        })
    }
}

/// `base` + y [M, out] of `x` [M, in].
pub(super) fn forward(
    backend: &dyn Backend,
    linear: &Linear,
    x: &Activations,
    adapter: (AdapterPass<'_>, &Magnitude),
    base: Option<&Tensor>,
) -> Result<(Tensor, DoraSaved)> {
    let dropped = dropped(backend, x, &adapter.0)?;
    let saved = DoraSaved::of_dropped(backend, linear, dropped.as_ref().unwrap_or(x), adapter)?;
    let mut y = scaled_rows(&saved.unscaled, &saved.ratio)?;
    if let Some(base) = base {
        y = (y + base)?;
    }
    if let Some(dropped) = &dropped {
        let rest = (x.tensor()? - dropped.tensor()?)?.into();
        y = backend.matmul_forward(&[linear.frozen(&rest)], Some(&y))?;
    }
    Ok((y, saved))
}

/// What goes back through an adapter of DoRA.
pub(super) struct DoraGrad<'a> {
    /// From dy'.
    pub factors: LoraGrad<'a>,
    /// dy' [M, out].
    pub scaled: Activations,
    /// dm' [out].
    magnitude: Tensor,
}

impl<'a> DoraGrad<'a> {
    /// From `dy` [M, out].
    pub fn of(
        backend: &dyn Backend,
        linear: &Linear,
        dy: &Activations,
        adapter: AdapterPass<'a>,
        saved: &DoraSaved,
    ) -> Result<Self> {
        let scaled: Activations = scaled_rows(dy.tensor()?, &saved.ratio)?.into();
        let factors = LoraGrad::of(backend, linear, &scaled, adapter, &saved.factors)?;
        let sums = (dy.tensor()? * &saved.unscaled)?
            .to_dtype(DType::F32)?
            .sum(0)?;
        Ok(Self {
            factors,
            scaled,
            magnitude: (sums / &saved.norms)?,
        })
    }

    /// dA, and `base` + c m o (k (dy' - dy) W + d A) where there is a mask.
    pub fn of_input(
        &self,
        backend: &dyn Backend,
        (linear, dy): (&Linear, &Activations),
        x: &Activations,
        base: Option<Tensor>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let LoraGrad { adapter, du, .. } = &self.factors;
        let dropped = dropped(backend, x, adapter)?;
        let da = backend.weight_gradient(du, dropped.as_ref().unwrap_or(x), 1.0)?;
        let Some(key) = &adapter.mask else {
            return Ok((da, base));
        };
        let change = (self.scaled.tensor()? - dy.tensor()?)?.into();
        let terms = [linear.frozen(&change), self.factors.update()];
        let masked = backend.matmul_backward(&terms, None)?;
        Ok((da, Some(backend.add_dropout(&masked, key, base.as_ref())?)))
    }

    /// With dA [R, in].
    pub fn of_factors(self, a: Tensor) -> FactorGrad {
        FactorGrad {
            magnitude: Some(self.magnitude),
            ..self.factors.of_factors(a)
        }
    }
}

/// The input of an adapter after its mask; none where there is no mask.
fn dropped(
    backend: &dyn Backend,
    x: &Activations,
    adapter: &AdapterPass<'_>,
) -> Result<Option<Activations>> {
    let mask = adapter.mask.as_ref();
    Ok(mask.map(|key| backend.dropout(x, key)).transpose()?)
}

/// `rows` [M, out] times `ratio` [out].
fn scaled_rows(rows: &Tensor, ratio: &Tensor) -> Result<Tensor> {
    Ok(rows.broadcast_mul(&ratio.to_dtype(rows.dtype())?)?)
}

/// n [out] without writing out any matrix of W's size:
/// |W|^2 + 2 s B . (A W^T)^T + s^2 B (A A^T) . B, row by row.
fn norms_with(backend: &dyn Backend, linear: &Linear, adapter: &AdapterPass<'_>) -> Result<Tensor> {
    let (Factors { a, b, .. }, scale) = (adapter.factors, adapter.scale);
    let rows = a.into();
    let product = linear.unscaled(&rows);
    let through = backend.matmul_forward(&[product], None)?.t()?;
    let cross = (b * through.to_dtype(DType::F32)?)?.sum(1)?;
    let own = (b.matmul(&a.matmul(&a.t()?)?)? * b)?.sum(1)?;
    let squares = (linear.squares(backend)? + (cross * (2.0 * scale))?)?;
    Ok((squares + (own * (scale * scale))?)?.sqrt()?)
}
