//! Memory of a GPU behind candle's tensors.

use candle_core::cuda_backend::CudaDType;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Device, Shape, Storage, Tensor};
use parking_lot::RwLockReadGuard;

use crate::Result;

/// The GPU that `tensor` lies on.
pub(super) fn device_of(tensor: &Tensor) -> Result<CudaDevice> {
    match tensor.device() {
        Device::Cuda(device) => Ok(device.clone()),
        other => candle_core::bail!("a tensor on {other:?} is given to a kernel of CUDA"),
    }
}

/// A tensor that a kernel reads, held while it does.
pub(super) struct Input<'a> {
    storage: RwLockReadGuard<'a, Storage>,
    range: (usize, usize),
}

impl<'a> Input<'a> {
    /// # Errors
    /// The tensor is in pieces.
    pub(super) fn of(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let Some(range) = layout.contiguous_offsets() else { candle_core::bail!("a kernel reads whole tensors only") };
        Ok(Self { storage, range })
    }

    /// # Errors
    /// The elements are of another type, or not on a GPU.
    pub(super) fn slice<T: CudaDType>(&self) -> Result<CudaView<'_, T>> {
        let Storage::Cuda(storage) = &*self.storage else { candle_core::bail!("a tensor is not on the GPU") };
        Ok(storage.as_cuda_slice::<T>()?.slice(self.range.0..self.range.1))
    }
}

/// A tensor of what a kernel wrote.
pub(super) fn finish<T: CudaDType>(data: CudaSlice<T>, device: CudaDevice, shape: impl Into<Shape>) -> Result<Tensor> {
    let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(data, device));
    Ok(Tensor::from_storage(storage, shape, BackpropOp::none(), false))
}
