//! The gated activation in candle's operations.

use candle_core::{DType, Tensor};

use crate::Result;

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

pub(crate) fn forward(g: &Tensor, up: &Tensor) -> Result<Tensor> {
    let g32 = g.to_dtype(DType::F32)?;
    let gate = (&g32 * sigmoid(&g32)?)?.to_dtype(g.dtype())?;
    gate * up
}

pub(crate) fn backward(dh: &Tensor, g: &Tensor, up: &Tensor) -> Result<(Tensor, Tensor)> {
    let (dh32, g32, up32) = (
        dh.to_dtype(DType::F32)?,
        g.to_dtype(DType::F32)?,
        up.to_dtype(DType::F32)?,
    );
    let s = sigmoid(&g32)?;
    let dup = ((&dh32 * &g32)? * &s)?;
    let slope = ((&g32 * s.affine(-1.0, 1.0)?)? + 1.0)?;
    let dg = (((dh32 * up32)? * s)? * slope)?;
    Ok((dg.to_dtype(g.dtype())?, dup.to_dtype(up.dtype())?))
}
