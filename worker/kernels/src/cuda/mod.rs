//! The fast forms on NVIDIA GPUs: launches of the kernels beside this file.
//!
//! An operation's launches stand in the file of its name. `tests/device.rs` holds them against the reference forms, on a GPU
//! or on the emulated one of `tests/emulated`; how fast they are, only a GPU can show.
//! A launch checks element types and sizes before anything is sent to the device.

pub(crate) mod adamw;
mod adamw8;
pub(crate) mod ahead;
pub(crate) mod attention;
mod buffer;
pub mod choice;
pub(crate) mod cross_entropy;
#[cfg(feature = "cudnn")]
mod cudnn;
pub(crate) mod dropout;
mod gpu;
pub(crate) mod host;
mod libraries;
pub(crate) mod lora;
pub mod memory;
mod modules;
pub mod nccl;
pub(crate) mod nf4;
mod open;
pub(crate) mod products;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod rows;
pub(crate) mod swiglu;

use candle_core::cuda_backend::cudarc::driver::LaunchConfig;
use candle_core::{DType, Tensor};

pub use self::libraries::{MissingLibrary, load};
pub use self::modules::replaced as replaced_kernels;
pub use self::open::{NoGpu, open};

/// Threads of a block.
const THREADS: u32 = 256;

/// Whether the fast forms apply: every tensor is bf16 on a GPU, and in one piece.
pub(crate) fn applies(tensors: &[&Tensor]) -> bool {
    let applies = |t: &&Tensor| t.device().is_cuda() && t.dtype() == DType::BF16 && t.is_contiguous();
    tensors.iter().all(applies)
}

/// A matrix in bf16 of the shape of `like`, for a kernel to fill.
pub(crate) fn unwritten_like(like: &Tensor) -> crate::Result<Tensor> {
    buffer::unwritten(like.dims2()?, DType::BF16, &buffer::device_of(like)?)
}

/// `work` units of work, one for each thread.
fn spread(work: usize) -> LaunchConfig {
    a_block_each(work.div_ceil(THREADS as usize))
}

/// A block for each row.
fn a_block_each(rows: usize) -> LaunchConfig {
    LaunchConfig { grid_dim: (rows as u32, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 }
}
