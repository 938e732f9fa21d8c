//! The launch of dropout.

use candle_core::Tensor;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use half::bf16;

use super::buffer::{Input, device_of, finish};
use super::gpu;
use super::launch::spread;
use crate::Result;
use crate::types::dropout::DropoutKey;

/// See [`crate::backend::Backend::add_dropout`].
pub(super) fn add(x: &Tensor, key: &DropoutKey, base: Option<&Tensor>) -> Result<Tensor> {
    let device = device_of(x)?;
    let (m, d) = x.dims2()?;
    let (x, base) = (Input::of(x)?, base.map(Input::of).transpose()?);
    // SAFETY: the kernel writes every element.
    let mut out = unsafe { device.alloc::<bf16>(m * d)? };
    let function = gpu::function(&device, "dropout", "dropout")?;
    let (x, base) = (
        x.slice::<bf16>()?,
        base.as_ref().map(Input::slice::<bf16>).transpose()?,
    );
    let (length, first, none) = ((m * d) as i64, key.first_token * d as u64, 0u64);
    let (low, high) = (key.seed as u32, (key.seed >> 32) as u32);
    let (threshold, kept) = (key.threshold(), key.kept());
    let mut launch = function.builder();
    launch.arg(&x);
    match &base {
        Some(base) => launch.arg(base),
        None => launch.arg(&none),
    };
    launch
        .arg(&length)
        .arg(&first)
        .arg(&low)
        .arg(&high)
        .arg(&key.projection)
        .arg(&key.step);
    launch.arg(&threshold).arg(&kept).arg(&mut out);
    // SAFETY: arguments are those of the kernel; the first group may begin before the tensor, hence
    // one more.
    unsafe { launch.launch(spread((m * d).div_ceil(8) + 1)) }.w()?;
    drop(launch);
    finish(out, device, (m, d))
}
