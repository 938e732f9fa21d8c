//! The launch of rotary embedding.

use candle_core::Tensor;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use half::bf16;

use super::buffer::{Input, device_of, finish};
use super::gpu;
use super::launch::spread;
use crate::Result;

/// Turns the heads of `x` [M, width] by the angles of `positions` [M], forward for a `sign` of 1.
pub(super) fn turn(
    x: &Tensor,
    positions: &Tensor,
    (cos, sin): (&Tensor, &Tensor),
    head: usize,
    sign: f32,
) -> Result<Tensor> {
    let device = device_of(x)?;
    let (m, width) = x.dims2()?;
    if positions.dims() != [m] || !width.is_multiple_of(head) {
        candle_core::bail!(
            "{:?} positions for {m} rows of {width} elements in heads of {head}",
            positions.dims()
        )
    }
    let (x, positions, cos, sin) = (
        Input::of(x)?,
        Input::of(positions)?,
        Input::of(cos)?,
        Input::of(sin)?,
    );
    // SAFETY: the kernel writes every element.
    let mut y = unsafe { device.alloc::<bf16>(m * width)? };
    let function = gpu::function(&device, "rope", "rope")?;
    let (x, positions) = (x.slice::<bf16>()?, positions.slice::<u32>()?);
    let (cos, sin) = (cos.slice::<f32>()?, sin.slice::<f32>()?);
    let run = if (head / 2).is_multiple_of(8) {
        8usize
    } else {
        1
    };
    let (pairs, elements, head, pairs_each) = (
        (m * width / 2) as i64,
        width as i32,
        head as i32,
        run as i32,
    );
    let mut launch = function.builder();
    launch
        .arg(&x)
        .arg(&positions)
        .arg(&cos)
        .arg(&sin)
        .arg(&pairs)
        .arg(&elements)
        .arg(&head)
        .arg(&pairs_each)
        .arg(&sign)
        .arg(&mut y);
    // SAFETY: arguments are those of the kernel; a position beyond the tables is refused where a
    // batch is made.
    unsafe { launch.launch(spread(m * width / 2 / run)) }.w()?;
    drop(launch);
    finish(y, device, (m, width))
}
