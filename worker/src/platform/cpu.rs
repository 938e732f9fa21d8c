//! Processor, main memory and disk, by sysinfo.

use std::path::Path;

use qlora_proto::{DeviceClass, Platform};
use sysinfo::{CpuRefreshKind, Disks, MemoryRefreshKind, RefreshKind, System};

/// A platform without an accelerator.
pub fn probe(folder: &Path) -> Platform {
    let kinds =
        RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()).with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(kinds).ok();
    let brand = system.as_ref().and_then(|s| Some(s.cpus().first()?.brand().trim().to_owned()));
    let model = brand.unwrap_or_default();
    // In a container the limit counts, not the machine.
    let limit = system.as_ref().and_then(|s| s.cgroup_limits()).map_or(u64::MAX, |c| c.total_memory);
    let memory = system.as_ref().map_or(0, System::total_memory).min(limit);
    Platform {
        device_class: DeviceClass::Cpu.into(),
        device_name: model.clone(),
        device_memory: memory,
        device_memory_free: system.as_ref().map_or(0, System::available_memory),
        cpu_model: model,
        cpu_cores: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
        memory,
        disk_free: disk_free(folder),
        os: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        version: env!("CARGO_PKG_VERSION").into(),
        host: System::host_name().unwrap_or_default(),
        bf16: has_bf16(),
        ..Platform::default()
    }
}

#[cfg(target_arch = "x86_64")]
fn has_bf16() -> bool {
    std::arch::is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_bf16() -> bool {
    false
}

pub fn memory_free() -> u64 {
    let kinds = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    System::new_with_specifics(kinds).map_or(0, |system| system.available_memory())
}

/// Free bytes on the disk that holds `folder`; 0 where the system does not tell.
pub fn disk_free(folder: &Path) -> u64 {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.into());
    let Ok(disks) = Disks::new_with_refreshed_list() else { return 0 };
    let holding = disks.iter().filter(|d| folder.starts_with(d.mount_point()));
    holding.max_by_key(|d| d.mount_point().as_os_str().len()).map_or(0, |d| d.available_space())
}
