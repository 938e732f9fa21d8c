//! The pool that all memory of a GPU comes from.
//!
//! Allocations are ordered with the work on the stream, so that what is freed is there for the next
//! kernel without waiting. The driver gives a pool's free memory back at every synchronization
//! unless it is told not to.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::sys::{self, CUmemPool_attribute as Attribute};
use candle_core::{Device, DeviceLocation, Result};

fn pool(ordinal: usize) -> Result<sys::CUmemoryPool> {
    let (mut device, mut pool) = (0, std::ptr::null_mut());
    // SAFETY: both calls write what they are asked for.
    unsafe {
        sys::cuDeviceGet(&mut device, ordinal as i32).result().w()?;
        sys::cuDeviceGetDefaultMemPool(&mut pool, device)
            .result()
            .w()?;
    }
    Ok(pool)
}

fn set(ordinal: usize, attribute: Attribute, mut value: u64) -> Result<()> {
    // SAFETY: every attribute used here is a number of 64 bits.
    unsafe { sys::cuMemPoolSetAttribute(pool(ordinal)?, attribute, (&raw mut value).cast()) }
        .result()
        .w()
}

/// What is freed stays with this program.
pub(super) fn keep_freed(ordinal: usize) -> Result<()> {
    set(
        ordinal,
        Attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
        u64::MAX,
    )
}

/// Most bytes of tensors that were there at one time since [`forget_peak`].
pub fn peak(device: &Device) -> Result<u64> {
    let mut value = 0u64;
    // SAFETY: the attribute is a number of 64 bits.
    let got = unsafe {
        sys::cuMemPoolGetAttribute(
            pool(ordinal_of(device))?,
            Attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH,
            (&raw mut value).cast(),
        )
    };
    got.result().w()?;
    Ok(value)
}

/// Begins a new measurement of [`peak`].
pub fn forget_peak(device: &Device) -> Result<()> {
    set(
        ordinal_of(device),
        Attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH,
        0,
    )
}

/// Bytes of the GPU that this program holds or may still take.
pub fn available(device: &Device) -> Result<u64> {
    let Device::Cuda(cuda) = device else {
        candle_core::bail!("{device:?} is no GPU of CUDA")
    };
    let (free, _) = cuda.cuda_stream().context().mem_get_info().w()?;
    let mut held = 0u64;
    let attribute = Attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT;
    // SAFETY: the attribute is a number of 64 bits.
    unsafe {
        sys::cuMemPoolGetAttribute(pool(ordinal_of(device))?, attribute, (&raw mut held).cast())
    }
    .result()
    .w()?;
    Ok(free as u64 + held)
}

/// Its place among the GPUs of this machine.
fn ordinal_of(device: &Device) -> usize {
    match device.location() {
        DeviceLocation::Cuda { gpu_id } => gpu_id,
        _ => 0,
    }
}
