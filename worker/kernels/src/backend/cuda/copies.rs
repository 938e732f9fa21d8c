//! Pinned memory, and the stream that copies to it and back.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use candle_core::CudaDevice;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaStream, result};
use half::bf16;
use parking_lot::Mutex;

use crate::Result;

/// The stream of copies of one GPU, and pinned memory that nobody uses.
pub(super) struct Copies {
    pub stream: Arc<CudaStream>,
    free: Mutex<HashMap<usize, Vec<Pinned>>>,
}

/// Host memory that the GPU can read and write by itself.
pub(super) struct Pinned {
    at: *mut c_void,
    pub elements: usize,
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
    pub unsafe fn values(&mut self) -> &mut [bf16] {
        // SAFETY: so many were allocated, and every pattern of bits is a `bf16`.
        unsafe { std::slice::from_raw_parts_mut(self.at.cast(), self.elements) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: it came from `malloc_host`. Only a program that ends drops it, as all others come
        // back to `free`.
        let _ = unsafe { result::free_host(self.at) };
    }
}

impl Copies {
    pub fn new(device: &CudaDevice) -> Result<Self> {
        Ok(Self {
            stream: device.cuda_stream().context().new_stream().w()?,
            free: Mutex::default(),
        })
    }

    pub fn pinned(&self, elements: usize) -> Result<Pinned> {
        let unused = self.free.lock().get_mut(&elements).and_then(Vec::pop);
        unused.map_or_else(|| Pinned::new(elements), Ok)
    }

    /// Another copy may use it: it is queued behind the one that used it before.
    pub fn give_back(&self, pinned: Pinned) {
        self.free
            .lock()
            .entry(pinned.elements)
            .or_default()
            .push(pinned);
    }
}
