//! Launches of the gated activation.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{DType, Tensor};
use half::bf16;

use super::buffer::{Input, address, device_of, finish};
use super::gpu;
use super::launch::spread;
use crate::Result;

/// See [`crate::backend::Backend::swiglu_forward`].
pub(super) fn forward(g: &Tensor, e: &Tensor) -> Result<Tensor> {
    let device = device_of(g)?;
    let (shape, n) = (g.dims2()?, g.elem_count());
    let (g, e) = (Input::of(g)?, Input::of(e)?);
    // SAFETY: the kernel writes every element.
    let mut h = unsafe { device.alloc::<bf16>(n)? };
    let function = gpu::function(&device, "swiglu", "swiglu_forward")?;
    let (g, e, length) = (g.slice::<bf16>()?, e.slice::<bf16>()?, n as i64);
    let mut launch = function.builder();
    launch.arg(&g).arg(&e).arg(&length).arg(&mut h);
    // SAFETY: arguments are those of the kernel, all of `n` elements.
    unsafe { launch.launch(spread(n.div_ceil(8))) }.w()?;
    drop(launch);
    finish(h, device, shape)
}

/// See [`crate::backend::Backend::swiglu_backward`]; `de` is where that goes, which may be `dh`
/// itself.
pub(super) fn backward(dh: &Tensor, g: &Tensor, e: &Tensor, de: &Tensor) -> Result<Tensor> {
    let device = device_of(g)?;
    let (shape, n) = (g.dims2()?, g.elem_count());
    let (dh, g, e, to) = (
        Input::of(dh)?,
        Input::of(g)?,
        Input::of(e)?,
        address(de, DType::BF16)?,
    );
    // SAFETY: the kernel writes every element.
    let mut dg = unsafe { device.alloc::<bf16>(n)? };
    let function = gpu::function(&device, "swiglu", "swiglu_backward")?;
    let (dh, g, e, length) = (
        dh.slice::<bf16>()?,
        g.slice::<bf16>()?,
        e.slice::<bf16>()?,
        n as i64,
    );
    let mut launch = function.builder();
    launch
        .arg(&dh)
        .arg(&g)
        .arg(&e)
        .arg(&length)
        .arg(&mut dg)
        .arg(&to);
    // SAFETY: arguments are those of the kernel, all of `n` elements; a thread has read its
    // elements of dh before it writes those of de.
    unsafe { launch.launch(spread(n.div_ceil(8))) }.w()?;
    drop(launch);
    finish(dg, device, shape)
}
