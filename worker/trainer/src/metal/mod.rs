//! The GPU of a Mac: what must be there before candle opens it, and what a run does so that its
//! memory stays small.
//!
//! candle checks none of it: it panics before macOS 15 and where Metal lists no GPU, never releases
//! what Metal autoreleases, and frees what it uploads only where it waits. This module computes
//! nothing.

mod autorelease;
mod mac;
mod uploads;

use candle_core::Device;
use qlora_kernels::backend::HAS_METAL;

use crate::Result;

pub(crate) use autorelease::autoreleased;
pub use mac::{Gpu, Mac, OLDEST};
pub(crate) use uploads::Uploads;

/// Opens the GPU.
///
/// # Errors
/// There is none that candle can open, or its kernels for bf16 are not there: why, and what to do.
pub fn open() -> Result<Device, String> {
    if !HAS_METAL {
        return Err("this program was built without the `metal` feature".into());
    }
    Mac::ask()?.gpu()?;
    let device = autoreleased(|| Device::new_metal(0)).map_err(|e| e.to_string())?;
    autoreleased(|| convert_bf16(&device)).map_err(|e| {
        format!(
            "its kernels for bf16 cannot be used ({e}); build with deploy/setup_mac.sh, which links the worker for macOS {}.{}",
            OLDEST.0, OLDEST.1
        )
    })?;
    Ok(device)
}

/// Uses a kernel that is left out where the program was linked for an older macOS.
fn convert_bf16(device: &Device) -> candle_core::Result<()> {
    let one =
        candle_core::Tensor::new(&[half::bf16::ONE], device)?.to_dtype(candle_core::DType::F32)?;
    match one.to_vec1::<f32>()?[..] {
        [1.0] => Ok(()),
        ref other => candle_core::bail!("1 becomes {other:?}"),
    }
}

/// Waits for a Mac's GPU, which frees what was uploaded; other devices go on.
///
/// # Errors
/// Any work since the last such wait has failed. candle's reads report the latest work only.
pub(crate) fn wait(device: &Device) -> Result<()> {
    if device.is_metal() {
        device.synchronize()?;
    }
    Ok(())
}
