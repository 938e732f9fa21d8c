//! NVIDIA's GPUs, by NVML, and whether this program can compute on them. Libraries are found at run
//! time; without them there is no NVIDIA device.

use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::accelerator::Accelerator;

/// Compute capability that the kernels ask for.
const OLDEST: i32 = 8;

/// CUDA's own variable: the GPUs that a program may use.
pub const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// The GPUs that this program may use and can compute on; in words why there is none.
///
/// One that is broken is left out with a warning, where others are there.
pub fn all() -> Result<Vec<Accelerator>, String> {
    let nvml = driver()?;
    let count = nvml
        .device_count()
        .map_err(|e| format!("the NVIDIA driver counts no GPUs ({e})"))?;
    let devices: Vec<Device<'_>> = (0..count)
        .filter_map(|i| nvml.device_by_index(i).ok())
        .collect();
    let ids: Vec<String> = devices
        .iter()
        .map(|device| device.uuid().unwrap_or_default())
        .collect();
    let named = std::env::var(VISIBLE).ok();
    let chosen = visible(named.as_deref(), &ids);
    let (mut sound, mut faults) = (Vec::new(), Vec::new());
    for i in chosen {
        match describe(&nvml, &devices[i]) {
            Ok(gpu) => sound.push(gpu),
            Err(fault) => faults.push(format!("GPU {i}: {fault}")),
        }
    }
    match (sound.is_empty(), faults.is_empty(), named) {
        (true, true, Some(named)) => Err(format!(
            "{VISIBLE}={named} names none of the driver's {count} GPUs"
        )),
        (true, true, None) => Err("the NVIDIA driver shows no GPU".into()),
        (true, false, _) => Err(faults.join("; ")),
        (false, ..) => {
            faults
                .iter()
                .for_each(|fault| tracing::warn!("not offered: {fault}"));
            Ok(sound)
        }
    }
}

/// The GPU of that UUID, or in words why it is not to be used any more.
pub fn one(id: &str) -> Result<Accelerator, String> {
    let nvml = driver()?;
    let device = nvml
        .device_by_uuid(id)
        .map_err(|e| format!("the GPU {id} is gone ({e})"))?;
    describe(&nvml, &device)
}

/// Energy that the GPU has taken since its driver was loaded, in joules; none where it does not
/// tell.
pub fn energy(id: &str) -> Option<f64> {
    let nvml = Nvml::init().ok()?;
    Some(
        nvml.device_by_uuid(id)
            .ok()?
            .total_energy_consumption()
            .ok()? as f64
            / 1000.0,
    )
}

fn driver() -> Result<Nvml, String> {
    Nvml::init().map_err(|e| format!("no NVIDIA driver was found ({e})"))
}

/// Which of the GPUs `ids` a program sees where [`VISIBLE`] is `named`: numbers, or beginnings of
/// UUIDs, up to the first that names none, as CUDA reads it.
fn visible(named: Option<&str>, ids: &[String]) -> Vec<usize> {
    let Some(named) = named else {
        return (0..ids.len()).collect();
    };
    let place = |name: &str| match name.trim().parse::<usize>() {
        Ok(i) => Some(i).filter(|&i| i < ids.len()),
        Err(_) => ids
            .iter()
            .position(|id| !name.trim().is_empty() && id.starts_with(name.trim())),
    };
    named.split(',').map_while(place).collect()
}

fn describe(nvml: &Nvml, device: &Device<'_>) -> Result<Accelerator, String> {
    fitness(device)?;
    let memory = device.memory_info().map_err(|e| e.to_string())?;
    let capability = device
        .cuda_compute_capability()
        .map_err(|e| e.to_string())?;
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
        id: device.uuid().map_err(|e| e.to_string())?,
    })
}

/// Whether the GPU may be trusted: it answers, and its memory has lost nothing since the driver was
/// loaded. A training process that failed on one that may not is no fault of the job.
fn fitness(device: &Device<'_>) -> Result<(), String> {
    match device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile) {
        Ok(errors) if errors > 0 => Err(format!(
            "the GPU reports {errors} memory errors that could not be corrected; reset it with nvidia-smi --gpu-reset, or restart the machine"
        )),
        Err(NvmlError::GpuLost) => {
            Err("the GPU has fallen off the bus; restart the machine".into())
        }
        // Consumer cards do not count.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gpus_that_cuda_sees_are_offered() {
        let ids = ["GPU-1a-0", "GPU-1b-0", "GPU-2c-0"].map(str::to_owned);
        for (named, wanted) in [
            (None, vec![0, 1, 2]),
            (Some("2,0"), vec![2, 0]),
            (Some("GPU-1b, GPU-2c-0"), vec![1, 2]),
            (Some("1,7,0"), vec![1]),
            (Some("GPU-9"), vec![]),
            (Some(""), vec![]),
            (Some("-1"), vec![]),
        ] {
            assert_eq!(visible(named, &ids), wanted, "{named:?}");
        }
    }
}
