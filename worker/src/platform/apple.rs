//! The GPU of an Apple chip, by Metal.

use super::Accelerator;

/// The GPU, or in words why there is none.
#[cfg(target_os = "macos")]
pub fn probe() -> Result<Accelerator, String> {
    use objc2_metal::MTLDevice;

    let device = objc2_metal::MTLCreateSystemDefaultDevice().ok_or("Metal shows no GPU")?;
    let working_set = device.recommendedMaxWorkingSetSize();
    let used = device.currentAllocatedSize() as u64;
    Ok(Accelerator {
        id: String::new(),
        name: device.name().to_string(),
        // Beyond the recommended working set the system starts to swap.
        memory: working_set,
        memory_free: working_set.saturating_sub(used),
        compute_capability: String::new(),
        driver: sysinfo::System::long_os_version().unwrap_or_default(),
        flash_attention: false,
    })
}

/// The GPU, or in words why there is none.
#[cfg(not(target_os = "macos"))]
pub fn probe() -> Result<Accelerator, String> {
    Err("this is not a Mac".into())
}
