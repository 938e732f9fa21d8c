//! The norm in candle's operations.

use candle_core::{D, DType, Tensor};

use crate::Result;

pub(crate) fn forward(x: &Tensor, w: &Tensor, epsilon: f64) -> Result<(Tensor, Tensor)> {
    let x32 = x.to_dtype(DType::F32)?;
    let rstd = (x32.sqr()?.mean_keepdim(D::Minus1)? + epsilon)?
        .sqrt()?
        .recip()?;
    let normal = x32.broadcast_mul(&rstd)?.to_dtype(x.dtype())?;
    Ok((normal.broadcast_mul(w)?, rstd))
}

pub(crate) fn backward(
    dy: &Tensor,
    x: &Tensor,
    w: &Tensor,
    rstd: &Tensor,
    base: Option<&Tensor>,
) -> Result<Tensor> {
    let (dy32, x32) = (dy.to_dtype(DType::F32)?, x.to_dtype(DType::F32)?);
    let t = dy32.broadcast_mul(&w.to_dtype(DType::F32)?)?;
    let mean = (&t * &x32)?.mean_keepdim(D::Minus1)?;
    let pulled = x32.broadcast_mul(&(rstd.sqr()? * mean)?)?;
    let dx = (t - pulled)?.broadcast_mul(rstd)?.to_dtype(x.dtype())?;
    base.map_or(Ok(dx.clone()), |base| base + dx)
}
