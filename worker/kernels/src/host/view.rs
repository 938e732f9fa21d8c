//! Plain slices of tensors that live in host memory.

use parking_lot::RwLockReadGuard;
use std::ops::Deref;

use candle_core::{CpuStorage, Device, Storage, Tensor};

use crate::Result;

/// The elements of a contiguous `f32` tensor on the CPU, borrowed.
pub(crate) struct View<'a> {
    storage: RwLockReadGuard<'a, Storage>,
    range: (usize, usize),
}

impl Deref for View<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(data)) => &data[self.range.0..self.range.1],
            _ => &[],
        }
    }
}

/// Borrows the elements of `tensor`.
///
/// # Errors
/// The tensor is not contiguous, not `f32`, or not on the CPU.
pub(crate) fn view(tensor: &Tensor) -> Result<View<'_>> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some(range) = layout.contiguous_offsets() else {
        candle_core::bail!("a tensor of shape {:?} is not contiguous", tensor.shape())
    };
    if !matches!(&*storage, Storage::Cpu(CpuStorage::F32(_))) {
        candle_core::bail!(
            "expected f32 on the cpu, found {:?} on {:?}",
            tensor.dtype(),
            tensor.device()
        )
    }
    Ok(View { storage, range })
}

/// Room for `n` elements that the caller writes before anything reads them: zeroing them first
/// would be another pass over memory.
#[allow(clippy::uninit_vec)]
pub(crate) fn unwritten(n: usize) -> Vec<f32> {
    let mut data = Vec::with_capacity(n);
    // SAFETY: every bit pattern is an `f32`, and each caller writes all elements.
    unsafe { data.set_len(n) };
    data
}

/// A new CPU tensor over `data`.
pub(crate) fn tensor(data: Vec<f32>, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
    Tensor::from_vec(data, shape.into(), &Device::Cpu)
}

/// The bytes of a contiguous `u8` tensor on the CPU, borrowed.
pub(crate) struct Bytes<'a> {
    storage: RwLockReadGuard<'a, Storage>,
    range: (usize, usize),
}

impl Deref for Bytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::U8(data)) => &data[self.range.0..self.range.1],
            _ => &[],
        }
    }
}

/// Borrows the bytes of `tensor`.
///
/// # Errors
/// As [`view`], of `u8`.
pub(crate) fn bytes(tensor: &Tensor) -> Result<Bytes<'_>> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some(range) = layout.contiguous_offsets() else {
        candle_core::bail!("a tensor of shape {:?} is not contiguous", tensor.shape())
    };
    if !matches!(&*storage, Storage::Cpu(CpuStorage::U8(_))) {
        candle_core::bail!(
            "expected u8 on the cpu, found {:?} on {:?}",
            tensor.dtype(),
            tensor.device()
        )
    }
    Ok(Bytes { storage, range })
}
