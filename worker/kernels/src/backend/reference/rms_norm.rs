//! The norm in candle's operations.

use candle_core::{D, DType, Tensor};

use crate::Result;
use crate::types::norm::NormWeight;

pub(crate) fn forward(x: &Tensor, w: NormWeight<'_>, epsilon: f64) -> Result<(Tensor, Tensor)> {
    let x32 = x.to_dtype(DType::F32)?;
    let rstd = (x32.sqr()?.mean_keepdim(D::Minus1)? + epsilon)?
        .sqrt()?
        .recip()?;
    let normal = x32.broadcast_mul(&rstd)?;
    // transformers rounds before it multiplies with a plain weight, and after it with an offset.
    let y = if w.unit_offset {
        normal.broadcast_mul(&factor(w)?)?.to_dtype(x.dtype())?
    } else {
        normal.to_dtype(x.dtype())?.broadcast_mul(w.weight)?
    };
    Ok((y, rstd))
}

fn factor(w: NormWeight<'_>) -> Result<Tensor> {
    w.weight
        .to_dtype(DType::F32)?
        .affine(1.0, f64::from(w.offset()))
}

pub(crate) fn backward(
    dy: &Tensor,
    x: &Tensor,
    w: NormWeight<'_>,
    rstd: &Tensor,
    base: Option<&Tensor>,
) -> Result<Tensor> {
    let (dy32, x32) = (dy.to_dtype(DType::F32)?, x.to_dtype(DType::F32)?);
    let t = dy32.broadcast_mul(&factor(w)?)?;
    let mean = (&t * &x32)?.mean_keepdim(D::Minus1)?;
    let pulled = x32.broadcast_mul(&(rstd.sqr()? * mean)?)?;
    let dx = (t - pulled)?.broadcast_mul(rstd)?.to_dtype(x.dtype())?;
    base.map_or(Ok(dx.clone()), |base| base + dx)
}
