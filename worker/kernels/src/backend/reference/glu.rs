//! The gated activation in candle's operations.

use candle_core::{DType, Tensor};

use crate::Result;
use crate::types::glu::{GELU_CUBE, GELU_SLOPE, GateFunction};

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

/// z of [`GateFunction`].
fn inner(gate: GateFunction, g: &Tensor) -> Result<Tensor> {
    match gate {
        GateFunction::Silu => Ok(g.clone()),
        GateFunction::GeluTanh => {
            let cube = (g.sqr()? * g)?;
            (g + (cube * f64::from(GELU_CUBE))?)? * f64::from(GELU_SLOPE)
        }
    }
}

pub(crate) fn forward(gate: GateFunction, g: &Tensor, up: &Tensor) -> Result<Tensor> {
    let g32 = g.to_dtype(DType::F32)?;
    let gated = (&g32 * sigmoid(&inner(gate, &g32)?)?)?.to_dtype(g.dtype())?;
    gated * up
}

pub(crate) fn backward(
    gate: GateFunction,
    dh: &Tensor,
    g: &Tensor,
    up: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let (dh32, g32, up32) = (
        dh.to_dtype(DType::F32)?,
        g.to_dtype(DType::F32)?,
        up.to_dtype(DType::F32)?,
    );
    let s = sigmoid(&inner(gate, &g32)?)?;
    let dup = ((&dh32 * &g32)? * &s)?;
    let mut rest = (&g32 * s.affine(-1.0, 1.0)?)?;
    if gate == GateFunction::GeluTanh {
        let (cube, slope) = (f64::from(GELU_CUBE), f64::from(GELU_SLOPE));
        rest = (rest * g32.sqr()?.affine(3.0 * cube * slope, slope)?)?;
    }
    let dg = (((dh32 * up32)? * s)? * (rest + 1.0)?)?;
    Ok((dg.to_dtype(g.dtype())?, dup.to_dtype(up.dtype())?))
}
