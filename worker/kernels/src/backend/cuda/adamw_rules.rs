//! What the launches of the optimizer share: at most two rules, and where tensors lie.

use candle_core::cuda_backend::cudarc::driver::{DevicePtr, DeviceRepr};
use candle_core::{CudaDevice, Tensor};

use super::buffer::Input;
use crate::Result;
use crate::types::adamw::{Constants, Parameter};

// SAFETY: eight numbers of 32 bits, as the kernel has them.
unsafe impl DeviceRepr for Constants {}

/// Where the numbers of `tensor` lie.
pub(super) fn address(tensor: &Tensor, device: &CudaDevice) -> Result<u64> {
    Ok(Input::of(tensor)?
        .slice::<f32>()?
        .device_ptr(&device.cuda_stream())
        .0)
}

/// The rule of the first tensor with its learning rate, and the other one where there are two.
pub(super) type Rules = ((Constants, f64), Constants);

pub(super) fn rules(parameters: &[Parameter<'_>]) -> Result<Rules> {
    let Some(first) = parameters.first() else {
        candle_core::bail!("nothing to update")
    };
    let own = first.rule.learning_rate;
    let other = parameters
        .iter()
        .find(|p| p.rule.learning_rate != own)
        .unwrap_or(first);
    if parameters
        .iter()
        .any(|p| ![own, other.rule.learning_rate].contains(&p.rule.learning_rate))
    {
        candle_core::bail!("more than two learning rates in one update")
    }
    Ok(((first.rule.constants(), own), other.rule.constants()))
}
