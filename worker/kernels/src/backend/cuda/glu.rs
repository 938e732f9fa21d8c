//! Launches of the gated activation.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{DType, Tensor};
use half::bf16;

use super::buffer::{Input, address, device_of, finish};
use super::gpu;
use super::launch::spread;
use crate::Result;
use crate::types::glu::GateFunction;

/// How the names of the kernels of `gate` end.
fn ending(gate: GateFunction) -> &'static str {
    match gate {
        GateFunction::Silu => "silu",
        GateFunction::GeluTanh => "gelu_tanh",
    }
}

/// See [`crate::backend::Backend::glu_forward`].
pub(super) fn forward(gate: GateFunction, g: &Tensor, up: &Tensor) -> Result<Tensor> {
    let device = device_of(g)?;
    let (shape, n) = (g.dims2()?, g.elem_count());
    let (g, up) = (Input::of(g)?, Input::of(up)?);
    // SAFETY: the kernel writes every element.
    let mut h = unsafe { device.alloc::<bf16>(n)? };
    let function = gpu::function(&device, "glu", &format!("glu_forward_{}", ending(gate)))?;
    let (g, up, length) = (g.slice::<bf16>()?, up.slice::<bf16>()?, n as i64);
    let mut launch = function.builder();
    launch.arg(&g).arg(&up).arg(&length).arg(&mut h);
    // SAFETY: arguments are those of the kernel, all of `n` elements.
    unsafe { launch.launch(spread(n.div_ceil(8))) }.w()?;
    drop(launch);
    finish(h, device, shape)
}

/// See [`crate::backend::Backend::glu_backward`]; `dup` is where that goes, which may be `dh`
/// itself.
pub(super) fn backward(
    gate: GateFunction,
    dh: &Tensor,
    (g, up): (&Tensor, &Tensor),
    dup: &Tensor,
) -> Result<Tensor> {
    let device = device_of(g)?;
    let (shape, n) = (g.dims2()?, g.elem_count());
    let (dh, g, up, to) = (
        Input::of(dh)?,
        Input::of(g)?,
        Input::of(up)?,
        address(dup, DType::BF16)?,
    );
    // SAFETY: the kernel writes every element.
    let mut dg = unsafe { device.alloc::<bf16>(n)? };
    let function = gpu::function(&device, "glu", &format!("glu_backward_{}", ending(gate)))?;
    let (dh, g, up, length) = (
        dh.slice::<bf16>()?,
        g.slice::<bf16>()?,
        up.slice::<bf16>()?,
        n as i64,
    );
    let mut launch = function.builder();
    launch
        .arg(&dh)
        .arg(&g)
        .arg(&up)
        .arg(&length)
        .arg(&mut dg)
        .arg(&to);
    // SAFETY: arguments are those of the kernel, all of `n` elements; a thread has read its
    // elements of dh before it writes those of dup.
    unsafe { launch.launch(spread(n.div_ceil(8))) }.w()?;
    drop(launch);
    finish(dg, device, shape)
}
