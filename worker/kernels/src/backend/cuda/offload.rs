//! Tensors that wait in host memory, copied there and back while the GPU computes.
//!
//! Copies go through a stream of their own, in pinned memory that is used again: pinning takes
//! longer than copying. Events order what one stream writes and the other reads, so the CPU never
//! waits.

use std::sync::Arc;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaEvent, CudaSlice, DevicePtr, DevicePtrMut, result,
};
use candle_core::{CudaDevice, Shape, Tensor};
use half::bf16;

use super::buffer::{Input, device_of, finish};
use super::copies::Pinned;
use super::gpu::Gpu;
use crate::Result;
use crate::types::offload::Transfer;

/// A tensor of bf16 on its way, or in host memory.
pub(crate) struct CudaTransfer {
    gpu: Arc<Gpu>,
    device: CudaDevice,
    shape: Shape,
    pinned: Option<Pinned>,
    sent: CudaEvent,
    /// Held until the copy of it is queued to be waited for.
    original: Option<Tensor>,
    back: Option<(CudaSlice<bf16>, CudaEvent)>,
}

impl CudaTransfer {
    /// Begins to copy `x`, whose memory on the GPU is held until [`Transfer::release`].
    pub fn offload(x: &Tensor) -> Result<Self> {
        let device = device_of(x)?;
        let gpu = Gpu::of(&device)?;
        let mut pinned = gpu.copies.pinned(x.elem_count())?;
        let (main, side) = (device.cuda_stream(), &gpu.copies.stream);
        side.join(&main).w()?;
        {
            let input = Input::of(x)?;
            let slice = input.slice::<bf16>()?;
            let (from, _read) = slice.device_ptr(side);
            // SAFETY: both are of one size, and neither is let go before `sent`: `original` holds
            // the one, the order of the stream the other.
            unsafe { result::memcpy_dtoh_async(pinned.values(), from, side.cu_stream()) }.w()?;
        }
        let sent = side.record_event(None).w()?;
        let (shape, original) = (x.shape().clone(), Some(x.clone()));
        Ok(Self {
            gpu,
            device,
            shape,
            pinned: Some(pinned),
            sent,
            original,
            back: None,
        })
    }
}

impl Transfer for CudaTransfer {
    fn release(&mut self) -> Result<()> {
        if self.original.is_some() {
            self.device.cuda_stream().wait(&self.sent).w()?;
            self.original = None;
        }
        Ok(())
    }

    fn prefetch(&mut self) -> Result<()> {
        let Some(pinned) = self
            .pinned
            .as_mut()
            .filter(|_| self.back.is_none() && self.original.is_none())
        else {
            return Ok(());
        };
        let (main, side) = (self.device.cuda_stream(), &self.gpu.copies.stream);
        // SAFETY: the copy writes every element.
        let mut room = unsafe { self.device.alloc::<bf16>(pinned.elements)? };
        // The memory may be what the main stream has just let go.
        side.join(&main).w()?;
        {
            let (to, _written) = room.device_ptr_mut(side);
            // SAFETY: both are of one size; the one is held by `back`, the other until `back` is
            // taken.
            unsafe { result::memcpy_htod_async(to, pinned.values(), side.cu_stream()) }.w()?;
        }
        self.back = Some((room, side.record_event(None).w()?));
        Ok(())
    }

    fn take(mut self: Box<Self>) -> Result<Tensor> {
        if let Some(original) = self.original.take() {
            // It never left. Its memory may be written again, so that the copy has to be over
            // before.
            self.device.cuda_stream().wait(&self.sent).w()?;
            return Ok(original);
        }
        self.prefetch()?;
        let Some((room, ready)) = self.back.take() else {
            candle_core::bail!("a tensor is brought back twice")
        };
        self.device.cuda_stream().wait(&ready).w()?;
        finish(room, self.device.clone(), self.shape.clone())
    }
}

impl Drop for CudaTransfer {
    fn drop(&mut self) {
        // Memory that a copy still reads or writes must not be let go before it is over; a GPU that
        // takes no order any more copies nothing either.
        let _ = self.release();
        if let Some((_, ready)) = &self.back {
            let _ = self.device.cuda_stream().wait(ready);
        }
        if let Some(pinned) = self.pinned.take() {
            self.gpu.copies.give_back(pinned);
        }
    }
}
