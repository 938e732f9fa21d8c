//! The launch of rotary embedding.

use candle_core::Tensor;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use half::bf16;

use super::buffer::{Input, device_of, finish};
use super::gpu;
use super::launch::spread;
use crate::Result;
use crate::types::rope::RopeTable;

/// Turns the heads of `x` [M, width] by the angles of `positions` [M], forward for a `sign` of 1.
pub(super) fn turn(table: &RopeTable, x: &Tensor, positions: &Tensor, sign: f32) -> Result<Tensor> {
    let device = device_of(x)?;
    let (m, width) = x.dims2()?;
    let (head, pairs) = (table.head_dim, table.pairs()?);
    if positions.dims() != [m] || !width.is_multiple_of(head) {
        candle_core::bail!(
            "{:?} positions for {m} rows of {width} elements in heads of {head}",
            positions.dims()
        )
    }
    let (x, positions, cos, sin) = (
        Input::of(x)?,
        Input::of(positions)?,
        Input::of(&table.cos)?,
        Input::of(&table.sin)?,
    );
    // SAFETY: the kernel writes every element.
    let mut y = unsafe { device.alloc::<bf16>(m * width)? };
    let function = gpu::function(&device, "rope", "rope")?;
    let (x, positions) = (x.slice::<bf16>()?, positions.slice::<u32>()?);
    let (cos, sin) = (cos.slice::<f32>()?, sin.slice::<f32>()?);
    let run = if pairs.is_multiple_of(8) { 8 } else { 1 };
    // Of a head: those of pairs, and those of what stays.
    let runs = pairs / run + (head - 2 * pairs).div_ceil(run);
    let total = m * (width / head) * runs;
    let (all, elements) = (total as i64, width as i32);
    let [head, pairs, run, runs] = [head, pairs, run, runs].map(|size| size as i32);
    let mut launch = function.builder();
    launch
        .arg(&x)
        .arg(&positions)
        .arg(&cos)
        .arg(&sin)
        .arg(&all)
        .arg(&elements)
        .arg(&head)
        .arg(&pairs)
        .arg(&run)
        .arg(&runs)
        .arg(&sign)
        .arg(&mut y);
    // SAFETY: arguments are those of the kernel; a position beyond the tables is refused where a
    // batch is made.
    unsafe { launch.launch(spread(total)) }.w()?;
    drop(launch);
    finish(y, device, (m, width))
}
