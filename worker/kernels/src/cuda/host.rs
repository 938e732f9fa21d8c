//! Tensors that wait in the machine's memory, copied there and back while the GPU computes.
//!
//! Copies go through a stream of their own, in pinned memory that is used again: pinning takes longer than copying. What
//! one stream writes and the other reads is ordered by events, and nothing waits on the processor.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, result};
use candle_core::{CudaDevice, Shape, Tensor};
use half::bf16;
use parking_lot::Mutex;

use super::buffer::{Input, device_of, finish};
use super::gpu::Gpu;
use crate::Result;

/// The stream of copies of one GPU, and pinned memory that nobody uses.
pub(super) struct Copies {
    stream: Arc<CudaStream>,
    free: Mutex<HashMap<usize, Vec<Pinned>>>,
}

/// Memory of the machine that the GPU can read and write by itself.
struct Pinned {
    at: *mut c_void,
    elements: usize,
}

// SAFETY: it is plain memory, and whoever has it is the only one.
unsafe impl Send for Pinned {}
// SAFETY: nothing is done through a shared one.
unsafe impl Sync for Pinned {}

impl Pinned {
    fn new(elements: usize) -> Result<Self> {
        // SAFETY: the driver gives memory or an error.
        let at = unsafe { result::malloc_host(elements * size_of::<bf16>(), 0) }.w()?;
        Ok(Self { at, elements })
    }

    /// # Safety
    /// Nothing reads or writes it before the copy that it is used for is over.
    unsafe fn numbers(&mut self) -> &mut [bf16] {
        // SAFETY: so many were allocated, and every pattern of bits is a number.
        unsafe { std::slice::from_raw_parts_mut(self.at.cast(), self.elements) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: it came from `malloc_host`. Only a program that ends drops it, as all others come back to `free`.
        let _ = unsafe { result::free_host(self.at) };
    }
}

impl Copies {
    pub(super) fn new(device: &CudaDevice) -> Result<Self> {
        Ok(Self { stream: device.cuda_stream().context().new_stream().w()?, free: Mutex::default() })
    }

    fn pinned(&self, elements: usize) -> Result<Pinned> {
        let unused = self.free.lock().get_mut(&elements).and_then(Vec::pop);
        unused.map_or_else(|| Pinned::new(elements), Ok)
    }

    /// Another copy may use it: it is queued behind the one that used it before.
    fn give_back(&self, pinned: Pinned) {
        self.free.lock().entry(pinned.elements).or_default().push(pinned);
    }
}

/// A tensor of bf16 on its way, or in the machine's memory.
pub(crate) struct Away {
    gpu: Arc<Gpu>,
    device: CudaDevice,
    shape: Shape,
    pinned: Option<Pinned>,
    sent: CudaEvent,
    /// Held until the copy of it is queued to be waited for.
    original: Option<Tensor>,
    back: Option<(CudaSlice<bf16>, CudaEvent)>,
}

impl Away {
    /// Begins to copy `x`, whose memory on the GPU is held until [`Self::settle`].
    pub fn send(x: &Tensor) -> Result<Self> {
        let device = device_of(x)?;
        let gpu = Gpu::of(&device)?;
        let mut pinned = gpu.copies.pinned(x.elem_count())?;
        let (main, side) = (device.cuda_stream(), &gpu.copies.stream);
        side.join(&main).w()?;
        {
            let input = Input::of(x)?;
            let slice = input.slice::<bf16>()?;
            let (from, _read) = slice.device_ptr(side);
            // SAFETY: both are of one size, and neither is let go before `sent`: `original` holds the one, the order of the
            // stream the other.
            unsafe { result::memcpy_dtoh_async(pinned.numbers(), from, side.cu_stream()) }.w()?;
        }
        let sent = side.record_event(None).w()?;
        let (shape, original) = (x.shape().clone(), Some(x.clone()));
        Ok(Self { gpu, device, shape, pinned: Some(pinned), sent, original, back: None })
    }

    /// Lets the memory on the GPU go; what the GPU is given from now on waits for the copy.
    pub fn settle(&mut self) -> Result<()> {
        if self.original.is_some() {
            self.device.cuda_stream().wait(&self.sent).w()?;
            self.original = None;
        }
        Ok(())
    }

    /// Begins to bring it back.
    pub fn recall(&mut self) -> Result<()> {
        let Some(pinned) = self.pinned.as_mut().filter(|_| self.back.is_none() && self.original.is_none()) else {
            return Ok(());
        };
        let (main, side) = (self.device.cuda_stream(), &self.gpu.copies.stream);
        // SAFETY: the copy writes every number.
        let mut room = unsafe { self.device.alloc::<bf16>(pinned.elements)? };
        // The memory may be what the main stream has just let go.
        side.join(&main).w()?;
        {
            let (to, _written) = room.device_ptr_mut(side);
            // SAFETY: both are of one size; the one is held by `back`, the other until `back` is taken.
            unsafe { result::memcpy_htod_async(to, pinned.numbers(), side.cu_stream()) }.w()?;
        }
        self.back = Some((room, side.record_event(None).w()?));
        Ok(())
    }

    /// The tensor on the GPU; what the GPU is given from now on waits for it.
    pub fn take(mut self) -> Result<Tensor> {
        if let Some(original) = self.original.take() {
            // It never left. Its memory may be written again, so that the copy has to be over before.
            self.device.cuda_stream().wait(&self.sent).w()?;
            return Ok(original);
        }
        self.recall()?;
        let Some((room, ready)) = self.back.take() else { candle_core::bail!("a tensor is brought back twice") };
        self.device.cuda_stream().wait(&ready).w()?;
        finish(room, self.device.clone(), self.shape.clone())
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        // Memory that a copy still reads or writes must not be let go before it is over; a GPU that takes no order any
        // more copies nothing either.
        let _ = self.settle();
        if let Some((_, ready)) = &self.back {
            let _ = self.device.cuda_stream().wait(ready);
        }
        if let Some(pinned) = self.pinned.take() {
            self.gpu.copies.give_back(pinned);
        }
    }
}
