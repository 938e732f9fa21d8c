//! The gated activation of the feed-forward layer, `h = silu(g) * e`.

use candle_core::{DType, Tensor};

use super::activations::Activations;
use crate::Result;
use crate::cpu;
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::view::{on_cpu, tensor, unwritten, view};

/// `g`, `e` [M, F] to `h` [M, F]; in bf16 where they are.
pub fn forward(g: &Activations, e: &Activations) -> Result<Activations> {
    if let (Some(g), Some(e)) = (g.own_rows(), e.own_rows()) {
        return Ok(cpu::swiglu::forward_rows(g, e).into());
    }
    let (g, e) = (g.tensor()?, e.tensor()?);
    #[cfg(feature = "cuda")]
    if cuda::applies(&[g, e]) {
        return Ok(cuda::swiglu::forward(g, e)?.into());
    }
    if !on_cpu(&[g, e]) {
        return Ok(reference_forward(g, e)?.into());
    }
    let mut h = unwritten(g.elem_count());
    cpu::swiglu::forward(&view(g)?, &view(e)?, &mut h);
    Ok(tensor(h, g.dims())?.into())
}

/// `dh`, `g`, `e` [M, F] to `(dg, de)`; in bf16 where they are.
///
/// With s = sigmoid(g): de = dh * g * s; dg = dh * e * s * (1 + g * (1 - s)).
pub fn backward(dh: &Activations, g: &Activations, e: &Activations) -> Result<(Activations, Activations)> {
    if let (Some(dh), Some(g), Some(e)) = (dh.own_rows(), g.own_rows(), e.own_rows()) {
        let (dg, de) = cpu::swiglu::backward_rows(dh, g, e);
        return Ok((dg.into(), de.into()));
    }
    let (dh, g, e) = (dh.tensor()?, g.tensor()?, e.tensor()?);
    #[cfg(feature = "cuda")]
    if cuda::applies(&[dh, g, e]) {
        let de = cuda::unwritten_like(dh)?;
        return Ok((cuda::swiglu::backward(dh, g, e, &de)?.into(), de.into()));
    }
    if !on_cpu(&[dh, g, e]) {
        let (dg, de) = reference_backward(dh, g, e)?;
        return Ok((dg.into(), de.into()));
    }
    let n = g.elem_count();
    let (mut dg, mut de) = (unwritten(n), unwritten(n));
    cpu::swiglu::backward(&view(dh)?, &view(g)?, &view(e)?, &mut dg, &mut de);
    Ok((tensor(dg, g.dims())?.into(), tensor(de, g.dims())?.into()))
}

/// [`backward`] of a `dh` that nothing else holds: on a GPU `de` is written over it, which saves memory of [M, F].
pub fn backward_over(dh: Activations, g: &Activations, e: &Activations) -> Result<(Activations, Activations)> {
    #[cfg(feature = "cuda")]
    if dh.own_rows().is_none() && cuda::applies(&[dh.tensor()?, g.tensor()?, e.tensor()?]) {
        let dg = cuda::swiglu::backward(dh.tensor()?, g.tensor()?, e.tensor()?, dh.tensor()?)?;
        return Ok((dg.into(), dh));
    }
    backward(&dh, g, e)
}

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

/// [`forward`] in candle's operations.
pub fn reference_forward(g: &Tensor, e: &Tensor) -> Result<Tensor> {
    let g32 = g.to_dtype(DType::F32)?;
    let gate = (&g32 * sigmoid(&g32)?)?.to_dtype(g.dtype())?;
    gate * e
}

/// [`backward`] in candle's operations.
pub fn reference_backward(dh: &Tensor, g: &Tensor, e: &Tensor) -> Result<(Tensor, Tensor)> {
    let (dh32, g32, e32) = (dh.to_dtype(DType::F32)?, g.to_dtype(DType::F32)?, e.to_dtype(DType::F32)?);
    let s = sigmoid(&g32)?;
    let de = ((&dh32 * &g32)? * &s)?;
    let slope = ((&g32 * s.affine(-1.0, 1.0)?)? + 1.0)?;
    let dg = (((dh32 * e32)? * s)? * slope)?;
    Ok((dg.to_dtype(g.dtype())?, de.to_dtype(e.dtype())?))
}
