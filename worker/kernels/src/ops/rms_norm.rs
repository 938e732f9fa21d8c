//! Root-mean-square normalisation, `y = x * rho * w` with `rho = 1 / sqrt(mean(x^2) + eps)`.

use candle_core::{D, DType, Tensor};

use super::activations::Activations;
use super::product::Products;
use crate::Result;
use crate::cpu;
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::view::{on_cpu, tensor, unwritten, view};

/// `x` [M, D], `w` [D] to `y` [M, D] and `rho` [M, 1] in `f32`.
pub fn forward(x: &Tensor, w: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    #[cfg(feature = "cuda")]
    if cuda::applies(&[x, w]) {
        return cuda::rms_norm::forward(x, w, eps);
    }
    if !on_cpu(&[x, w]) {
        return reference_forward(x, w, eps);
    }
    let (m, d) = x.dims2()?;
    let (mut y, mut rho) = (unwritten(m * d), unwritten(m));
    cpu::rms_norm::forward(&view(x)?, &view(w)?, eps as f32, &mut y, &mut rho);
    Ok((tensor(y, (m, d))?, tensor(rho, (m, 1))?))
}

/// [`forward`] for products of the kind `products`: in bf16 where those are.
pub fn forward_on(x: &Tensor, w: &Tensor, eps: f64, products: Products) -> Result<(Activations, Tensor)> {
    if !(on_cpu(&[x, w]) && matches!(products, Products::Strips(_))) {
        let (y, rho) = forward(x, w, eps)?;
        return Ok((y.into(), rho));
    }
    let m = x.dim(0)?;
    let mut rho = unwritten(m);
    let y = cpu::rms_norm::forward_rows(&view(x)?, &view(w)?, eps as f32, &mut rho);
    Ok((y.into(), tensor(rho, (m, 1))?))
}

/// `dy`, `x` [M, D], `w` [D], `rho` [M, 1] to `base` + `dx` [M, D]. `w` is frozen and gets no gradient.
///
/// With t = dy * w: dx = rho * (t - x * rho^2 * mean(t * x)).
pub fn backward(dy: &Tensor, x: &Tensor, w: &Tensor, rho: &Tensor, base: Option<&Tensor>) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::applies(&[dy, x, w]) && base.is_none_or(|base| cuda::applies(&[base])) {
        return cuda::rms_norm::backward(dy, x, w, rho, base);
    }
    if !on_cpu(&[dy, x, w]) {
        let dx = reference_backward(dy, x, w, rho)?;
        return base.map_or(Ok(dx.clone()), |base| base + dx);
    }
    let (m, d) = x.dims2()?;
    let mut dx = unwritten(m * d);
    cpu::rms_norm::backward(&view(dy)?, &view(x)?, &view(w)?, &view(rho)?, &mut dx);
    if let Some(base) = base {
        cpu::math::add(&mut dx, &view(base)?);
    }
    tensor(dx, (m, d))
}

/// [`forward`] in candle's operations.
pub fn reference_forward(x: &Tensor, w: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let x32 = x.to_dtype(DType::F32)?;
    let rho = (x32.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
    let normal = x32.broadcast_mul(&rho)?.to_dtype(x.dtype())?;
    Ok((normal.broadcast_mul(w)?, rho))
}

/// [`backward`] in candle's operations.
pub fn reference_backward(dy: &Tensor, x: &Tensor, w: &Tensor, rho: &Tensor) -> Result<Tensor> {
    let (dy32, x32) = (dy.to_dtype(DType::F32)?, x.to_dtype(DType::F32)?);
    let t = dy32.broadcast_mul(&w.to_dtype(DType::F32)?)?;
    let mean = (&t * &x32)?.mean_keepdim(D::Minus1)?;
    let pulled = x32.broadcast_mul(&(rho.sqr()? * mean)?)?;
    (t - pulled)?.broadcast_mul(rho)?.to_dtype(x.dtype())
}
