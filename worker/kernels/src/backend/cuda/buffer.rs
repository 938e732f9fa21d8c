//! Memory of a GPU behind candle's tensors.

use candle_core::cuda_backend::CudaDType;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView, DevicePtr};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Device, Shape, Storage, Tensor};
use half::bf16;
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
        let Some(range) = layout.contiguous_offsets() else {
            candle_core::bail!("a kernel reads whole tensors only")
        };
        Ok(Self { storage, range })
    }

    /// # Errors
    /// The elements are of another type, or not on a GPU.
    pub(super) fn slice<T: CudaDType>(&self) -> Result<CudaView<'_, T>> {
        let Storage::Cuda(storage) = &*self.storage else {
            candle_core::bail!("a tensor is not on the GPU")
        };
        Ok(storage
            .as_cuda_slice::<T>()?
            .slice(self.range.0..self.range.1))
    }
}

/// A tensor of what a kernel wrote.
pub(super) fn finish<T: CudaDType>(
    data: CudaSlice<T>,
    device: CudaDevice,
    shape: impl Into<Shape>,
) -> Result<Tensor> {
    let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(data, device));
    Ok(Tensor::from_storage(
        storage,
        shape,
        BackpropOp::none(),
        false,
    ))
}

/// A matrix for a kernel to fill.
pub(super) fn unwritten(
    shape: (usize, usize),
    dtype: DType,
    device: &CudaDevice,
) -> Result<Tensor> {
    let elements = shape.0 * shape.1;
    // SAFETY: every caller has all elements written before anything reads them.
    unsafe {
        match dtype {
            DType::F32 => finish(device.alloc::<f32>(elements)?, device.clone(), shape),
            DType::BF16 => finish(device.alloc::<bf16>(elements)?, device.clone(), shape),
            other => candle_core::bail!("no kernel writes {other:?}"),
        }
    }
}

/// Where a tensor of the given type begins on the GPU.
pub(super) fn address(tensor: &Tensor, dtype: DType) -> Result<u64> {
    let (input, stream) = (Input::of(tensor)?, device_of(tensor)?.cuda_stream());
    Ok(match dtype {
        DType::F32 => input.slice::<f32>()?.device_ptr(&stream).0,
        DType::U32 => input.slice::<u32>()?.device_ptr(&stream).0,
        _ => input.slice::<bf16>()?.device_ptr(&stream).0,
    })
}
