//! What this machine is and can do: the processor and memory always, accelerators where there are any.

mod apple;
mod cpu;
pub mod nvidia;
#[cfg(target_os = "linux")]
mod xid;

use std::collections::HashMap;
use std::path::Path;

use qlora_proto::{DeviceClass, Platform};
use tokio::sync::watch;

use crate::error::WorkerError;

/// An accelerator, as its own library describes it.
#[derive(Debug, Clone, Default)]
pub struct Accelerator {
    pub name: String,
    pub memory: u64,
    pub memory_free: u64,
    pub compute_capability: String,
    pub driver: String,
    pub flash_attention: bool,
    /// By which its library knows it; empty where there can only be one.
    pub id: String,
}

/// What the machine has to offer, each for a worker of its own: every GPU, or the processor; `device` is the class that
/// was asked for.
///
/// # Errors
/// The class that was asked for is not here, or not in this build.
pub fn offers(device: Option<&str>, labels: &[(String, String)], folder: &Path) -> Result<Vec<Platform>, WorkerError> {
    let mut platform = cpu::probe(folder);
    platform.labels = labels.iter().cloned().collect::<HashMap<_, _>>();
    let (cuda, metal) = (nvidia::all(), apple::probe());
    let (class, gpus) = match device {
        Some("cuda") => (DeviceClass::Cuda, cuda.map_err(WorkerError::Device)?),
        Some("metal") => (DeviceClass::Metal, vec![metal.map_err(WorkerError::Device)?]),
        Some(_) => return Ok(vec![platform]),
        None => match (cuda, metal) {
            (Ok(gpus), _) if cfg!(feature = "cuda") => (DeviceClass::Cuda, gpus),
            (_, Ok(gpu)) if cfg!(feature = "metal") => (DeviceClass::Metal, vec![gpu]),
            (Err(fault), _) if cfg!(feature = "cuda") => {
                tracing::warn!("no NVIDIA GPU is offered: {fault}");
                return Ok(vec![platform]);
            }
            _ => return Ok(vec![platform]),
        },
    };
    gpus.into_iter().map(|gpu| with(platform.clone(), class, gpu)).collect()
}

fn with(mut platform: Platform, class: DeviceClass, gpu: Accelerator) -> Result<Platform, WorkerError> {
    let built =
        class == DeviceClass::Cuda && cfg!(feature = "cuda") || class == DeviceClass::Metal && cfg!(feature = "metal");
    if !built {
        let word = class.word();
        return Err(WorkerError::Device(format!(
            "{} is here, but this worker was built without {word}\n  help: build it with --features {word}",
            gpu.name
        )));
    }
    platform.device_class = class.into();
    platform.device_name = gpu.name;
    platform.device_memory = gpu.memory;
    platform.device_memory_free = gpu.memory_free;
    platform.compute_capability = gpu.compute_capability;
    platform.driver = gpu.driver;
    platform.bf16 = true;
    platform.flash_attention = gpu.flash_attention;
    platform.device_id = gpu.id;
    Ok(platform)
}

/// # Errors
/// The device that was offered is broken.
pub fn still_fit(platform: &Platform) -> Result<(), WorkerError> {
    match platform.device_class() {
        DeviceClass::Cuda => nvidia::one(&platform.device_id).map(drop).map_err(WorkerError::Device),
        _ => Ok(()),
    }
}

/// Where the fault of a device appears; it is broken then.
pub type Faults = watch::Receiver<Option<String>>;

/// Waits until the device that was offered is known to be broken, and says how; for ever where its driver tells nothing.
pub async fn broken(faults: &mut Option<Faults>) -> String {
    if let Some(faults) = faults
        && let Ok(fault) = faults.wait_for(Option::is_some).await
    {
        return fault.clone().unwrap_or_default();
    }
    std::future::pending().await
}

/// Where faults of the device that is offered appear, while it works.
pub fn faults(platform: &Platform) -> Option<Faults> {
    #[cfg(target_os = "linux")]
    if platform.device_class() == DeviceClass::Cuda {
        return Some(xid::follow(platform.device_id.clone()));
    }
    let _ = platform;
    None
}

/// What changes from minute to minute: free device memory and free disk space.
pub fn free(platform: &Platform, folder: &Path) -> (u64, u64) {
    let memory = match platform.device_class() {
        DeviceClass::Cuda => nvidia::one(&platform.device_id).map_or(0, |gpu| gpu.memory_free),
        _ => cpu::memory_free(),
    };
    (memory, cpu::disk_free(folder))
}

/// Free bytes of the disk that holds `folder`; 0 where the system does not tell.
pub fn disk_free(folder: &Path) -> u64 {
    cpu::disk_free(folder)
}

/// What each accelerator library says, for `doctor`.
pub fn accelerators() -> [(&'static str, Result<Vec<Accelerator>, String>); 2] {
    [("NVIDIA GPU", nvidia::all()), ("Apple GPU", apple::probe().map(|gpu| vec![gpu]))]
}
