//! DoRA (Liu et al., 2024): the rows of W + s B A are scaled by g = |m'| / |W + s B A|.
//!
//! As in PEFT, dropout touches only what the adapter changes, and the norm is a constant to the
//! gradient: with x' = c (m o x) and r = k (x' W^T + s u B^T), y = k (x - x') W^T + g o r.

use candle_core::{DType, Tensor};
use qlora_kernels::{Activations, Backend, Term};

use super::{Linear, LoraSaved};
use crate::Result;
use crate::lora::{AdapterPass, Factors};

/// The input of an adapter after its mask; none where there is no mask.
pub(super) fn dropped(
    backend: &dyn Backend,
    x: &Activations,
    adapter: &AdapterPass<'_>,
) -> Result<Option<Activations>> {
    let mask = adapter.mask.as_ref();
    Ok(mask.map(|key| backend.dropout(x, key)).transpose()?)
}

/// `rows` [M, out] times `ratio` [out].
pub(super) fn scaled_rows(rows: &Tensor, ratio: &Tensor) -> Result<Tensor> {
    Ok(rows.broadcast_mul(&ratio.to_dtype(rows.dtype())?)?)
}

impl Linear {
    /// [`Linear::forward`] without the bias.
    pub(super) fn forward_decomposed(
        &self,
        backend: &dyn Backend,
        x: &Activations,
        adapter: AdapterPass<'_>,
        base: Option<&Tensor>,
    ) -> Result<(Tensor, Option<LoraSaved>)> {
        let dropped = dropped(backend, x, &adapter)?;
        let (u, unscaled) = self.decomposed(backend, dropped.as_ref().unwrap_or(x), &adapter)?;
        let ratio = self.ratio(backend, &adapter)?;
        let missing = || candle_core::Error::Msg("DoRA without magnitudes".into());
        let ratio = ratio.ok_or_else(missing)?;
        let mut y = scaled_rows(&unscaled, &ratio)?;
        if let Some(base) = base {
            y = (y + base)?;
        }
        if let Some(dropped) = &dropped {
            let rest = (x.tensor()? - dropped.tensor()?)?.into();
            y = backend.matmul_forward(&[self.frozen(&rest)], Some(&y))?;
        }
        let unscaled = Some(unscaled);
        Ok((y, Some(LoraSaved { u, unscaled })))
    }

    pub(super) fn saved_decomposed(
        &self,
        backend: &dyn Backend,
        x: &Activations,
        adapter: &AdapterPass<'_>,
    ) -> Result<LoraSaved> {
        let dropped = dropped(backend, x, adapter)?;
        let (u, unscaled) = self.decomposed(backend, dropped.as_ref().unwrap_or(x), adapter)?;
        let unscaled = Some(unscaled);
        Ok(LoraSaved { u, unscaled })
    }

    /// u and r for the input after its mask.
    fn decomposed(
        &self,
        backend: &dyn Backend,
        dropped: &Activations,
        adapter: &AdapterPass<'_>,
    ) -> Result<(Activations, Tensor)> {
        let inner = Term {
            x: dropped,
            w: &adapter.factors.a,
            scale: 1.0,
        };
        let u = backend.matmul_forward(&[inner], None)?.into();
        let terms = [self.frozen(dropped), self.update(adapter, &u)];
        let unscaled = backend.matmul_forward(&terms, None)?;
        Ok((u, unscaled))
    }

    /// |W| [out], row by row.
    pub fn norms(&self, backend: &dyn Backend) -> Result<Tensor> {
        Ok(self.squares(backend)?.sqrt()?)
    }

    fn squares(&self, backend: &dyn Backend) -> Result<&Tensor> {
        if let Some(squares) = self.squares.get() {
            return Ok(squares);
        }
        let squares = backend
            .dequantize(&*self.weight, DType::F32)?
            .sqr()?
            .sum(1)?;
        Ok(self.squares.get_or_init(|| squares))
    }

    /// g [out]; none without DoRA.
    pub(super) fn ratio(
        &self,
        backend: &dyn Backend,
        adapter: &AdapterPass<'_>,
    ) -> Result<Option<Tensor>> {
        let Some(magnitude) = &adapter.factors.magnitude else {
            return Ok(None);
        };
        let norms = magnitude.norms(|| self.norms_with(backend, adapter))?;
        Ok(Some((&magnitude.value / norms)?))
    }

    /// |W + s B A| [out] without writing out any matrix of W's size:
    /// |W|^2 + 2 s B . (A W^T)^T + s^2 B (A A^T) . B, row by row.
    pub(super) fn norms_with(
        &self,
        backend: &dyn Backend,
        adapter: &AdapterPass<'_>,
    ) -> Result<Tensor> {
        let (Factors { a, b, .. }, scale) = (adapter.factors, adapter.scale);
        let rows = a.into();
        let product = Term {
            x: &rows,
            w: &*self.weight,
            scale: 1.0,
        };
        let through = backend.matmul_forward(&[product], None)?.t()?;
        let cross = (b * through.to_dtype(DType::F32)?)?.sum(1)?;
        let own = (b.matmul(&a.matmul(&a.t()?)?)? * b)?.sum(1)?;
        let squares = (self.squares(backend)? + (cross * (2.0 * scale))?)?;
        Ok((squares + (own * (scale * scale))?)?.sqrt()?)
    }
}
