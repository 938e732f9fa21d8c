//! The GPU of an Apple chip, by Metal.

use qlora_trainer::device::HAS_METAL;
use qlora_trainer::metal::{self, Mac};

use super::accelerator::Accelerator;

/// The GPU, or in words why there is none that can be used.
pub fn probe() -> Result<Accelerator, String> {
    let gpu = accelerator(&Mac::ask()?)?;
    if HAS_METAL {
        metal::open()?;
    }
    Ok(gpu)
}

/// The GPU of `mac`, as the coordinator is told of it.
fn accelerator(mac: &Mac) -> Result<Accelerator, String> {
    let gpu = mac.gpu()?;
    let (major, minor, patch) = mac.version;
    Ok(Accelerator {
        id: String::new(),
        name: gpu.name.clone(),
        // Beyond the recommended working set the system starts to swap.
        memory: gpu.working_set,
        memory_free: gpu.working_set.saturating_sub(gpu.allocated),
        compute_capability: String::new(),
        driver: format!("macOS {major}.{minor}.{patch}"),
        flash_attention: false,
    })
}

#[cfg(test)]
mod tests {
    use qlora_trainer::metal::Gpu;

    use super::*;

    #[test]
    fn a_gpu_is_described_by_what_macos_says() {
        let gpu = Gpu {
            name: "Apple M4 Max".into(),
            working_set: 48 << 30,
            allocated: 3 << 30,
        };
        let mac = Mac {
            version: (26, 1, 0),
            default: Some(gpu),
            listed: 1,
        };
        let found = accelerator(&mac).expect("a GPU");
        assert_eq!(
            (found.name.as_str(), found.driver.as_str()),
            ("Apple M4 Max", "macOS 26.1.0")
        );
        assert_eq!((found.memory, found.memory_free), (48 << 30, 45 << 30));
        for unfit in [
            Mac {
                version: (14, 7, 1),
                ..mac.clone()
            },
            Mac { listed: 0, ..mac },
        ] {
            assert!(accelerator(&unfit).is_err(), "{unfit:?}");
        }
    }

    #[cfg(not(target_os = "macos"))]
    #[test]
    fn another_system_says_so() {
        assert_eq!(probe().map(drop), Err("this is not a Mac".into()));
    }
}
