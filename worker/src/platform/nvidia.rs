//! The first NVIDIA GPU, by NVML, and whether this program can compute on it. Libraries are found at run time; without
//! them there is no NVIDIA device.

use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::Accelerator;

/// Compute capability that the kernels ask for.
const OLDEST: i32 = 8;

/// The GPU, or in words why there is none.
pub fn probe() -> Result<Accelerator, String> {
    let nvml = Nvml::init().map_err(|e| format!("no NVIDIA driver was found ({e})"))?;
    let device = nvml.device_by_index(0).map_err(|e| format!("the NVIDIA driver shows no GPU ({e})"))?;
    fitness(&device)?;
    let memory = device.memory_info().map_err(|e| e.to_string())?;
    let capability = device.cuda_compute_capability().map_err(|e| e.to_string())?;
    if capability.major < OLDEST {
        return Err(format!(
            "compute capability {}.{} is too old: bf16 on tensor cores begins with Ampere, {OLDEST}.0",
            capability.major, capability.minor
        ));
    }
    qlora_trainer::device::cuda_libraries().map_err(|e| e.to_string())?;
    Ok(Accelerator {
        name: device.name().map_err(|e| e.to_string())?,
        memory: memory.total,
        memory_free: memory.free,
        compute_capability: format!("{}.{}", capability.major, capability.minor),
        driver: nvml.sys_driver_version().unwrap_or_default(),
        flash_attention: true,
    })
}

/// Whether the GPU may be trusted: it answers, and its memory has lost nothing since the driver was loaded. A training
/// process that failed on one that may not is no fault of the job.
fn fitness(device: &Device<'_>) -> Result<(), String> {
    match device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile) {
        Ok(errors) if errors > 0 => Err(format!(
            "the GPU reports {errors} memory errors that could not be corrected; reset it with nvidia-smi --gpu-reset, or restart the machine"
        )),
        Err(NvmlError::GpuLost) => Err("the GPU has fallen off the bus; restart the machine".into()),
        // Consumer cards do not count.
        _ => Ok(()),
    }
}

/// Energy that the GPU has taken since its driver was loaded, in joules; none where it does not tell.
pub fn energy() -> Option<f64> {
    let nvml = Nvml::init().ok()?;
    Some(nvml.device_by_index(0).ok()?.total_energy_consumption().ok()? as f64 / 1000.0)
}
