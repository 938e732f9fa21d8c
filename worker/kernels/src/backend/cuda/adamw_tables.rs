//! The tables that `adamw.cu` reads: a row for each tensor, laid out as its structures of the same
//! names.

use candle_core::cuda_backend::cudarc::driver::{DevicePtr, DeviceRepr};
use candle_core::{CudaDevice, Tensor};

use super::buffer::Input;
use crate::Result;
use crate::types::adamw::Constants;

/// Where an array lies on the device.
pub(super) type Address = u64;

/// A gradient whose squares are summed.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Gradient {
    pub values: Address,
    pub elements: u64,
}

/// A tensor whose moments are in `f32`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Full {
    pub gradient: Address,
    pub value: Address,
    pub first: Address,
    pub second: Address,
    pub new_value: Address,
    pub new_first: Address,
    pub new_second: Address,
    pub elements: u64,
    pub rule: Constants,
}

/// Moments in 8 bits: codes, and a scale for each block of them.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Codes {
    pub codes: Address,
    pub scales: Address,
}

/// A tensor whose moments are in 8 bits.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Coded {
    pub gradient: Address,
    pub value: Address,
    pub first: Codes,
    pub second: Codes,
    pub new_value: Address,
    pub new_first: Codes,
    pub new_second: Codes,
    pub elements: u64,
    pub rule: Constants,
}

// `adamw.cu` asserts the same sizes.
const _: () = assert!(size_of::<Constants>() == 32);
const _: () = assert!(size_of::<Gradient>() == 16);
const _: () = assert!(size_of::<Full>() == 96);
const _: () = assert!(size_of::<Coded>() == 128);

// SAFETY: plain data without padding, laid out as the kernels have it.
unsafe impl DeviceRepr for Gradient {}
// SAFETY: as above.
unsafe impl DeviceRepr for Full {}
// SAFETY: as above.
unsafe impl DeviceRepr for Coded {}

/// Where the elements of `tensor` lie.
pub(super) fn address(tensor: &Tensor, device: &CudaDevice) -> Result<Address> {
    Ok(Input::of(tensor)?
        .slice::<f32>()?
        .device_ptr(&device.cuda_stream())
        .0)
}
