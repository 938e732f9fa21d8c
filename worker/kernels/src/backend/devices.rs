//! GPUs, and the libraries that they need, before any backend is open.

use candle_core::Device;

#[cfg(feature = "cuda")]
use crate::backend::cuda;

/// Whether this program has code for NVIDIA's GPUs.
pub const HAS_CUDA: bool = cfg!(feature = "cuda");

/// Whether this program has code for a Mac's GPU.
pub const HAS_METAL: bool = cfg!(feature = "metal");

/// Said where a program has no code for NVIDIA's GPUs.
#[cfg(not(feature = "cuda"))]
const WITHOUT: &str = "this program was built without the `cuda` feature";

/// Opens NVIDIA's GPU `ordinal`, and keeps what is freed on it for later allocations of this
/// program.
///
/// # Errors
/// Libraries or a GPU are missing, the driver is too old, or the GPU does not answer.
#[cfg(feature = "cuda")]
pub fn open_cuda(ordinal: usize) -> Result<Device, String> {
    cuda::open::open(ordinal).map_err(|e| e.to_string())
}

/// # Errors
/// This program was built without CUDA.
#[cfg(not(feature = "cuda"))]
pub fn open_cuda(_: usize) -> Result<Device, String> {
    Err(WITHOUT.into())
}

/// Loads what a GPU of CUDA needs besides its driver; a build without the `cuda` feature needs
/// nothing.
///
/// # Errors
/// A library is missing: which, and what to install.
pub fn load_cuda_libraries() -> Result<(), String> {
    #[cfg(feature = "cuda")]
    cuda::libraries::load().map_err(|e| e.to_string())?;
    Ok(())
}

/// The version of the cuDNN that runs on a GPU may take their attention from; none in a build
/// without the `cuda` feature.
///
/// # Errors
/// There is none: why.
pub fn cudnn_version() -> Option<Result<String, String>> {
    #[cfg(feature = "cuda")]
    return Some(cuda::choice::cudnn().map_err(|e| e.to_string()));
    #[cfg(not(feature = "cuda"))]
    None
}
