//! Launches of the norm.

use candle_core::Tensor;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use half::bf16;

use super::buffer::{Input, device_of, finish};
use super::modules;
use super::rows::a_block_a_row;
use crate::Result;

/// See [`crate::ops::rms_norm::forward`].
pub(crate) fn forward(x: &Tensor, w: &Tensor, epsilon: f64) -> Result<(Tensor, Tensor)> {
    let device = device_of(x)?;
    let (m, d) = x.dims2()?;
    let (x, w) = (Input::of(x)?, Input::of(w)?);
    // SAFETY: the kernel writes every element of both.
    let (mut y, mut rho) = unsafe { (device.alloc::<bf16>(m * d)?, device.alloc::<f32>(m)?) };
    let function = modules::function(&device, "rms_norm", "rms_norm_forward")?;
    let (x, w, width, epsilon) = (x.slice::<bf16>()?, w.slice::<bf16>()?, d as i32, epsilon as f32);
    let mut launch = function.builder();
    launch.arg(&x).arg(&w).arg(&width).arg(&epsilon).arg(&mut y).arg(&mut rho);
    // SAFETY: arguments are those of the kernel; a block goes over one of the `m` rows of `d` elements.
    unsafe { launch.launch(a_block_a_row(m, d)) }.w()?;
    drop(launch);
    Ok((finish(y, device.clone(), (m, d))?, finish(rho, device, (m, 1))?))
}

/// See [`crate::ops::rms_norm::backward`].
pub(crate) fn backward(dy: &Tensor, x: &Tensor, w: &Tensor, rho: &Tensor, base: Option<&Tensor>) -> Result<Tensor> {
    let device = device_of(x)?;
    let (m, d) = x.dims2()?;
    let (dy, x, w, rho) = (Input::of(dy)?, Input::of(x)?, Input::of(w)?, Input::of(rho)?);
    let base = base.map(Input::of).transpose()?;
    // SAFETY: the kernel writes every element.
    let mut dx = unsafe { device.alloc::<bf16>(m * d)? };
    let function = modules::function(&device, "rms_norm", "rms_norm_backward")?;
    let (dy, x, w, rho) = (dy.slice::<bf16>()?, x.slice::<bf16>()?, w.slice::<bf16>()?, rho.slice::<f32>()?);
    let base = base.as_ref().map(Input::slice::<bf16>).transpose()?;
    let (width, none) = (d as i32, 0u64);
    let mut launch = function.builder();
    launch.arg(&dy).arg(&x).arg(&w).arg(&rho);
    match &base {
        Some(base) => launch.arg(base),
        None => launch.arg(&none),
    };
    launch.arg(&width).arg(&mut dx);
    // SAFETY: arguments are those of the kernel; a block goes over one of the `m` rows of `d` elements.
    unsafe { launch.launch(a_block_a_row(m, d)) }.w()?;
    drop(launch);
    finish(dx, device, (m, d))
}
