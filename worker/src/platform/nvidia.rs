//! The first NVIDIA GPU, by NVML. The library is found at run time; without it there is no NVIDIA device.

use nvml_wrapper::Nvml;

use super::Accelerator;

/// The GPU, or in words why there is none.
pub fn probe() -> Result<Accelerator, String> {
    let nvml = Nvml::init().map_err(|e| format!("no NVIDIA driver was found ({e})"))?;
    let device = nvml.device_by_index(0).map_err(|e| format!("the NVIDIA driver shows no GPU ({e})"))?;
    let memory = device.memory_info().map_err(|e| e.to_string())?;
    let capability = device.cuda_compute_capability().map_err(|e| e.to_string())?;
    Ok(Accelerator {
        name: device.name().map_err(|e| e.to_string())?,
        memory: memory.total,
        memory_free: memory.free,
        compute_capability: format!("{}.{}", capability.major, capability.minor),
        driver: nvml.sys_driver_version().unwrap_or_default(),
        // Fused attention with a backward pass is not there yet on CUDA.
        flash_attention: false,
    })
}
