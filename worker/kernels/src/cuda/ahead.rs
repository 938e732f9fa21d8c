//! Matrices that are written out beside the product before theirs, on a stream of their own.

use std::fmt;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::CudaEvent;
use candle_core::{CudaDevice, Tensor};

use super::buffer::device_of;
use super::gpu::Gpu;
use super::nf4;
use crate::Result;
use crate::ops::nf4::Nf4Tensor;

/// A matrix in bf16 that is being written, or is there.
pub(crate) struct Ahead {
    device: CudaDevice,
    matrix: Option<Tensor>,
    ready: CudaEvent,
}

impl Ahead {
    /// Begins to write `matrix` out, when all is done that the GPU was given before.
    pub fn begin(matrix: &Nf4Tensor) -> Result<Self> {
        let device = device_of(matrix.packed())?;
        let gpu = Gpu::of(&device)?;
        let (main, side) = (device.cuda_stream(), &gpu.ahead);
        let room = nf4::room(matrix, &device)?;
        // The memory may be what the main stream has just let go.
        side.join(&main).w()?;
        let matrix = Some(nf4::to_bf16(matrix, room, side)?);
        Ok(Self { device, matrix, ready: side.record_event(None).w()? })
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

impl Drop for Ahead {
    fn drop(&mut self) {
        // Memory that is still written must not be let go; a GPU that takes no order any more writes nothing either.
        if self.matrix.is_some() {
            let _ = self.device.cuda_stream().wait(&self.ready);
        }
    }
}

impl fmt::Debug for Ahead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ahead").field(&self.matrix).finish()
    }
}
