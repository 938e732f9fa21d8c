//! Dequantizes matrices on a stream of their own, while the product before theirs runs.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::CudaEvent;
use candle_core::{CudaDevice, Tensor};

use super::buffer::device_of;
use super::gpu::Gpu;
use super::nf4;
use crate::Result;
use crate::types::nf4::Nf4Tensor;

/// A matrix in bf16 that is being written, or is there.
pub(super) struct Prefetched {
    device: CudaDevice,
    matrix: Option<Tensor>,
    ready: CudaEvent,
    /// What the matrix is made of: freed after the wait for it.
    _codes: Nf4Tensor,
}

impl Prefetched {
    /// Begins to dequantize `matrix`, when all is done that the GPU was given before.
    pub fn begin(matrix: &Nf4Tensor) -> Result<Self> {
        let device = device_of(matrix.packed())?;
        let gpu = Gpu::of(&device)?;
        let (main, side) = (device.cuda_stream(), &gpu.side);
        let room = nf4::room(matrix, &device)?;
        // The memory may be what the main stream has just let go.
        side.join(&main).w()?;
        let written = Some(nf4::to_bf16(matrix, room, side)?);
        Ok(Self {
            device,
            matrix: written,
            ready: side.record_event(None).w()?,
            _codes: matrix.clone(),
        })
    }

    /// The matrix; what the GPU is given from now on waits for it.
    pub fn take(mut self) -> Result<Tensor> {
        self.device.cuda_stream().wait(&self.ready).w()?;
        match self.matrix.take() {
            Some(matrix) => Ok(matrix),
            None => candle_core::bail!("a matrix is taken twice"),
        }
    }
}

impl Drop for Prefetched {
    fn drop(&mut self) {
        // Memory that is still written must not be let go; a GPU that takes no order any more
        // writes nothing either.
        if self.matrix.is_some() {
            let _ = self.device.cuda_stream().wait(&self.ready);
        }
    }
}
