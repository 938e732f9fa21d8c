//! CPU, host memory and disk, by sysinfo.

use std::path::Path;

use qlora_proto::{DeviceClass, Platform};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// A platform without an accelerator.
pub fn probe(folder: &Path) -> Platform {
    let kinds = RefreshKind::nothing()
        .with_cpu(CpuRefreshKind::nothing())
        .with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(kinds).ok();
    let brand = system
        .as_ref()
        .and_then(|s| Some(s.cpus().first()?.brand().trim().to_owned()));
    let model = brand.unwrap_or_default();
    // In a container the limit counts, not the machine.
    let limit = system
        .as_ref()
        .and_then(|s| s.cgroup_limits())
        .map_or(u64::MAX, |c| c.total_memory);
    let memory = system.as_ref().map_or(0, System::total_memory).min(limit);
    Platform {
        device_class: DeviceClass::Cpu.into(),
        device_name: model.clone(),
        device_memory: memory,
        device_memory_free: system.as_ref().map(System::available_memory),
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

/// Bytes of host memory that are free; none where the system does not tell.
pub fn memory_free() -> Option<u64> {
    let kinds = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    System::new_with_specifics(kinds)
        .ok()
        .map(|system| system.available_memory())
}

/// Bytes that a user may still write to the disk that holds `folder`; none where the system does
/// not tell.
pub fn disk_free(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Bytes of the disk that holds `folder` that a download leaves free: a disk that is full to the
/// last byte stops all that writes there. 2 % of it, 1 GiB at the most; 0 where the system does not
/// tell.
pub fn disk_reserve(folder: &Path) -> u64 {
    let size = |disk: rustix::fs::StatVfs| disk.f_blocks.saturating_mul(disk.f_frsize);
    let size = rustix::fs::statvfs(folder).map_or(0, size);
    (size / 50).min(1 << 30)
}
