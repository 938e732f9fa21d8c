//! A Mac's GPU: no kernels of our own yet, so every operation is the reference form, in bf16.

use candle_core::{DType, Device};

use crate::backend::reference::backend::Reference;

pub(crate) fn open(device: Device) -> Reference {
    Reference::new(device, DType::BF16)
}
