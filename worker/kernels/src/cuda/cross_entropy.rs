//! The launch of cross entropy.

use candle_core::Tensor;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use half::bf16;

use super::a_block_each;
use super::buffer::{Input, device_of, finish};
use crate::Result;

const CROSS_ENTROPY: &str = include_str!(concat!(env!("OUT_DIR"), "/cross_entropy.ptx"));

/// The losses [L] of `logits` [L, V] in `f32`, and the gradient of their sum times `scale` in bf16 where there is one.
pub(crate) fn loss_and_grad(logits: &Tensor, targets: &[u32], scale: Option<f64>) -> Result<(Tensor, Option<Tensor>)> {
    let device = device_of(logits)?;
    let (rows, v) = logits.dims2()?;
    if targets.len() != rows || targets.iter().any(|&target| target as usize >= v) {
        candle_core::bail!("{} targets for {rows} rows of {v} logits", targets.len())
    }
    let targets = Tensor::new(targets, logits.device())?;
    let (logits, targets) = (Input::of(logits)?, Input::of(&targets)?);
    // SAFETY: the kernel writes every element of both.
    let (mut losses, mut grad) =
        unsafe { (device.alloc::<f32>(rows)?, device.alloc::<bf16>(if scale.is_some() { rows * v } else { 1 })?) };
    let function = device.get_or_load_custom_func("cross_entropy", "qlora_cross_entropy", CROSS_ENTROPY)?;
    let (logits, targets) = (logits.slice::<f32>()?, targets.slice::<u32>()?);
    let (width, factor, none) = (v as i32, scale.unwrap_or(0.0) as f32, 0u64);
    let mut launch = function.builder();
    launch.arg(&logits).arg(&targets).arg(&width).arg(&factor).arg(&mut losses);
    match scale {
        Some(_) => launch.arg(&mut grad),
        None => launch.arg(&none),
    };
    // SAFETY: arguments are those of the kernel; a block goes over one row, and targets were checked.
    unsafe { launch.launch(a_block_each(rows)) }.w()?;
    drop(launch);
    let losses = finish(losses, device.clone(), rows)?;
    let grad = scale.map(|_| finish(grad, device, (rows, v))).transpose()?;
    Ok((losses, grad))
}
