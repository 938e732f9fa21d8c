//! Opens a GPU.

use candle_core::Device;
use candle_core::cuda_backend::cudarc::driver::{result, sys};
use candle_core::cuda_backend::kernels;

use super::libraries::{self, MissingLibrary};

/// The driver's version that CUDA 13.0 asks for, as the driver counts.
const OLDEST_DRIVER: i32 = 13_000;

/// Why there is no GPU to compute on.
#[derive(Debug, thiserror::Error)]
pub enum NoGpu {
    #[error(transparent)]
    Library(#[from] MissingLibrary),
    #[error(
        "no NVIDIA GPU is visible ({0}); `nvidia-smi` shows those that the driver knows, CUDA_VISIBLE_DEVICES hides some"
    )]
    None(String),
    #[error("GPU {wanted} is asked for, {there} are visible; they count from 0")]
    Ordinal { wanted: usize, there: i32 },
    #[error("NVIDIA's driver serves CUDA {}.{}, this program needs 13.0; install driver 580 or newer", .0 / 1000, .0 % 1000 / 10)]
    Driver(i32),
    #[error(
        "this program was built for tests, without candle's kernels; build it again with CUDA's nvcc, after `cargo clean \
         --release -p candle-kernels`"
    )]
    NoKernels,
    #[error("the GPU cannot be opened: {0}")]
    Open(#[from] candle_core::Error),
}

/// Opens the GPU `ordinal`, and keeps what is freed on it for later allocations of this program.
///
/// # Errors
/// Libraries or a GPU are missing, the driver is too old, or the GPU does not answer.
pub fn open(ordinal: usize) -> Result<Device, NoGpu> {
    libraries::load()?;
    result::init().map_err(|e| NoGpu::None(e.to_string()))?;
    let mut version = 0;
    // SAFETY: the driver writes an integer.
    unsafe { sys::cuDriverGetVersion(&mut version) }
        .result()
        .map_err(|e| NoGpu::None(e.to_string()))?;
    if version < OLDEST_DRIVER {
        return Err(NoGpu::Driver(version));
    }
    // The emulated GPU of the tests has none of candle's kernels.
    if !kernels::CAST.ptx().contains(".entry") && std::env::var_os("QLORA_EMULATED_GPU").is_none() {
        return Err(NoGpu::NoKernels);
    }
    let there = result::device::get_count().map_err(|e| NoGpu::None(e.to_string()))?;
    if ordinal as i32 >= there {
        return Err(NoGpu::Ordinal {
            wanted: ordinal,
            there,
        });
    }
    // A stream of its own, because every thread has another "default" one.
    let device = Device::new_cuda_with_stream(ordinal)?;
    if let Device::Cuda(device) = &device {
        // SAFETY: all work of this program goes through the one stream, in the order in which it is
        // given.
        unsafe { device.disable_event_tracking() };
    }
    super::memory::keep_freed(ordinal)?;
    if let Device::Cuda(device) = &device {
        // Code that the GPU does not run is noticed here, and not in the middle of a step.
        super::gpu::Gpu::of(device)?;
    }
    Ok(device)
}
