//! What this machine is and can do: the CPU and memory always, accelerators where there are
//! any.

mod accelerator;
mod apple;
mod cpu;
mod faults;
pub mod nvidia;
mod offer;
#[cfg(target_os = "linux")]
mod xid;

use std::collections::HashMap;
use std::path::Path;

use qlora_proto::{DeviceClass, Platform};
use qlora_trainer::device::{HAS_CUDA, HAS_METAL};

pub use self::accelerator::Accelerator;
pub use self::cpu::{disk_free, disk_reserve};
pub use self::faults::{Faults, broken};
use self::offer::{Kind, Offer};
use crate::error::WorkerError;

/// What the machine has to offer, each for a worker of its own: every GPU, or the CPU; `device` is
/// the class that was asked for.
///
/// # Errors
/// The class that was asked for is not here, or not in this build.
pub fn offers(
    device: Option<&str>,
    labels: &[(String, String)],
    folder: &Path,
) -> Result<Vec<Platform>, WorkerError> {
    let mut platform = cpu::probe(folder);
    platform.labels = labels.iter().cloned().collect::<HashMap<_, _>>();
    let wanted = device.map(|device| match device {
        "cuda" => DeviceClass::Cuda,
        "metal" => DeviceClass::Metal,
        _ => DeviceClass::Cpu,
    });
    match offer::choose(wanted, kinds(wanted))? {
        Offer::Gpus(class, gpus) => Ok(gpus
            .into_iter()
            .map(|gpu| with(platform.clone(), class, gpu))
            .collect()),
        Offer::Cpu { instead } => {
            for why in instead {
                tracing::warn!("the CPU is offered, not a GPU: {why}");
            }
            Ok(vec![platform])
        }
    }
}

/// The kinds of GPU, of which those are looked for that may be offered.
fn kinds(wanted: Option<DeviceClass>) -> Vec<Kind> {
    let may_be = |class| wanted.is_none_or(|wanted| wanted == class);
    let mut kinds = Vec::new();
    if may_be(DeviceClass::Cuda) {
        kinds.push(Kind {
            class: DeviceClass::Cuda,
            built: HAS_CUDA,
            found: nvidia::all(),
        });
    }
    if may_be(DeviceClass::Metal) {
        let found = apple::probe().map(|gpu| vec![gpu]);
        kinds.push(Kind {
            class: DeviceClass::Metal,
            built: HAS_METAL,
            found,
        });
    }
    kinds
}

fn with(mut platform: Platform, class: DeviceClass, gpu: Accelerator) -> Platform {
    platform.device_class = class.into();
    platform.device_name = gpu.name;
    platform.device_memory = gpu.memory;
    platform.device_memory_free = Some(gpu.memory_free);
    platform.compute_capability = gpu.compute_capability;
    platform.driver = gpu.driver;
    platform.bf16 = true;
    platform.flash_attention = gpu.flash_attention;
    platform.device_id = gpu.id;
    platform
}

/// # Errors
/// The device that was offered is broken.
pub fn still_fit(platform: &Platform) -> Result<(), WorkerError> {
    match platform.device_class() {
        DeviceClass::Cuda => nvidia::one(&platform.device_id)
            .map(drop)
            .map_err(WorkerError::Device),
        _ => Ok(()),
    }
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

/// What changes from minute to minute: free device memory and free disk space, where the system
/// tells.
pub fn free(platform: &Platform, folder: &Path) -> (Option<u64>, Option<u64>) {
    let memory = match platform.device_class() {
        DeviceClass::Cuda => nvidia::one(&platform.device_id)
            .ok()
            .map(|gpu| gpu.memory_free),
        _ => cpu::memory_free(),
    };
    (memory, cpu::disk_free(folder))
}

/// What each accelerator library says, for `doctor`.
pub fn accelerators() -> [(&'static str, Result<Vec<Accelerator>, String>); 2] {
    [
        ("NVIDIA GPU", nvidia::all()),
        ("Apple GPU", apple::probe().map(|gpu| vec![gpu])),
    ]
}
