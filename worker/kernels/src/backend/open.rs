//! The choice of a backend.

use std::sync::{Arc, LazyLock};

use candle_core::{DType, Device};

use crate::Result;
use crate::backend::cpu::backend::Cpu;
#[cfg(feature = "cuda")]
use crate::backend::cuda::backend::Cuda;
use crate::backend::metal;
use crate::backend::operations::Backend;
use crate::backend::reference::backend::Reference;
use crate::types::instructions::Instructions;
use crate::types::options::{Compute, Options};

/// Opens the backend of `device` for what `options` say. Which form computes what is chosen here,
/// once.
///
/// # Errors
/// The device cannot be opened, or does not have what is asked for.
pub fn open(device: &Device, options: &Options) -> Result<Arc<dyn Backend>> {
    match device {
        Device::Cpu => Ok(Arc::new(Cpu::new(options.compute))),
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => Ok(Arc::new(Cuda::open(device, options)?)),
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => candle_core::bail!("this program was built without the `cuda` feature"),
        Device::Metal(_) => Ok(Arc::new(metal::open(device.clone()))),
    }
}

/// The reference forms on `device`, with activations of `dtype`: for comparing others with.
pub fn reference(device: &Device, dtype: DType) -> Arc<dyn Backend> {
    Arc::new(Reference::new(device.clone(), dtype))
}

/// The CPU with products on `instructions`.
///
/// # Errors
/// It does not have them.
pub fn on_instructions(instructions: Instructions) -> Result<Arc<dyn Backend>> {
    if !Instructions::all().any(|have| have == instructions) {
        let have: Vec<_> = Instructions::all().map(Instructions::name).collect();
        candle_core::bail!(
            "this CPU has no {}; it has {}",
            instructions.name(),
            have.join(", ")
        )
    }
    Ok(Arc::new(Cpu::on(instructions)))
}

/// The CPU as it computes best: for work in host memory beside another device's.
pub fn host() -> Arc<dyn Backend> {
    static HOST: LazyLock<Arc<dyn Backend>> = LazyLock::new(|| Arc::new(Cpu::new(Compute::Auto)));
    HOST.clone()
}
