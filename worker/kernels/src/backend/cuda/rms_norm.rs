//! Launches of the norm.

use candle_core::Tensor;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use half::bf16;

use super::buffer::{Input, device_of, finish};
use super::gpu;
use super::launch::a_block_a_row;
use crate::Result;
use crate::types::norm::NormWeight;

/// See [`crate::backend::Backend::rms_norm_forward`].
pub(super) fn forward(x: &Tensor, w: NormWeight<'_>, epsilon: f64) -> Result<(Tensor, Tensor)> {
    let device = device_of(x)?;
    let (m, d) = x.dims2()?;
    let name = if w.unit_offset {
        "rms_norm_forward_offset"
    } else {
        "rms_norm_forward"
    };
    let (x, w) = (Input::of(x)?, Input::of(w.weight)?);
    // SAFETY: the kernel writes every element of both.
    let (mut y, mut rstd) = unsafe { (device.alloc::<bf16>(m * d)?, device.alloc::<f32>(m)?) };
    let function = gpu::function(&device, "rms_norm", name)?;
    let (x, w, width, epsilon) = (
        x.slice::<bf16>()?,
        w.slice::<bf16>()?,
        d as i32,
        epsilon as f32,
    );
    let mut launch = function.builder();
    launch
        .arg(&x)
        .arg(&w)
        .arg(&width)
        .arg(&epsilon)
        .arg(&mut y)
        .arg(&mut rstd);
    // SAFETY: arguments are those of the kernel; a block goes over one of the `m` rows of `d`
    // elements.
    unsafe { launch.launch(a_block_a_row(m, d)) }.w()?;
    drop(launch);
    Ok((
        finish(y, device.clone(), (m, d))?,
        finish(rstd, device, (m, 1))?,
    ))
}

/// See [`crate::backend::Backend::rms_norm_backward`].
pub(super) fn backward(
    dy: &Tensor,
    x: &Tensor,
    w: NormWeight<'_>,
    rstd: &Tensor,
    base: Option<&Tensor>,
) -> Result<Tensor> {
    let device = device_of(x)?;
    let (m, d) = x.dims2()?;
    let name = if w.unit_offset {
        "rms_norm_backward_offset"
    } else {
        "rms_norm_backward"
    };
    let (dy, x, w, rstd) = (
        Input::of(dy)?,
        Input::of(x)?,
        Input::of(w.weight)?,
        Input::of(rstd)?,
    );
    let base = base.map(Input::of).transpose()?;
    // SAFETY: the kernel writes every element.
    let mut dx = unsafe { device.alloc::<bf16>(m * d)? };
    let function = gpu::function(&device, "rms_norm", name)?;
    let (dy, x, w, rstd) = (
        dy.slice::<bf16>()?,
        x.slice::<bf16>()?,
        w.slice::<bf16>()?,
        rstd.slice::<f32>()?,
    );
    let base = base.as_ref().map(Input::slice::<bf16>).transpose()?;
    let (width, none) = (d as i32, 0u64);
    let mut launch = function.builder();
    launch.arg(&dy).arg(&x).arg(&w).arg(&rstd);
    match &base {
        Some(base) => launch.arg(base),
        None => launch.arg(&none),
    };
    launch.arg(&width).arg(&mut dx);
    // SAFETY: arguments are those of the kernel; a block goes over one of the `m` rows of `d`
    // elements.
    unsafe { launch.launch(a_block_a_row(m, d)) }.w()?;
    drop(launch);
    finish(dx, device, (m, d))
}
