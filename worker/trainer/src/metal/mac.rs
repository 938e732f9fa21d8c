//! What macOS says about itself and its GPU, and whether candle can open it.

/// The oldest macOS on which candle runs: it asks for a residency set, which older ones do not
/// have.
pub const OLDEST: (u64, u64) = (15, 0);

/// A GPU, as Metal describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    pub name: String,
    /// Bytes beyond which the system starts to swap.
    pub working_set: u64,
    /// Bytes that this process holds.
    pub allocated: u64,
}

/// What macOS says about itself and its GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mac {
    /// Major, minor, patch.
    pub version: (u64, u64, u64),
    pub default: Option<Gpu>,
    /// Length of Metal's list of GPUs, of which candle opens the first.
    pub listed: usize,
}

impl Mac {
    /// # Errors
    /// This is not a Mac.
    #[cfg(target_os = "macos")]
    pub fn ask() -> Result<Self, String> {
        use objc2_metal::MTLDevice;

        use super::autorelease::autoreleased;

        let number = |n: isize| n.unsigned_abs() as u64;
        Ok(autoreleased(|| {
            let version = objc2_foundation::NSProcessInfo::processInfo().operatingSystemVersion();
            let version = (
                number(version.majorVersion),
                number(version.minorVersion),
                number(version.patchVersion),
            );
            let default = objc2_metal::MTLCreateSystemDefaultDevice().map(|device| Gpu {
                name: device.name().to_string(),
                working_set: device.recommendedMaxWorkingSetSize(),
                allocated: device.currentAllocatedSize() as u64,
            });
            Self {
                version,
                default,
                listed: objc2_metal::MTLCopyAllDevices().len(),
            }
        }))
    }

    /// # Errors
    /// This is not a Mac.
    #[cfg(not(target_os = "macos"))]
    pub fn ask() -> Result<Self, String> {
        Err("this is not a Mac".into())
    }

    /// The GPU that candle can open.
    ///
    /// # Errors
    /// There is none: why, and what to do.
    pub fn gpu(&self) -> Result<&Gpu, String> {
        let (major, minor, patch) = self.version;
        if (major, minor) < OLDEST {
            return Err(format!(
                "this is macOS {major}.{minor}.{patch}, and Metal is used from macOS {}.{} on; update macOS",
                OLDEST.0, OLDEST.1
            ));
        }
        let Some(gpu) = &self.default else {
            return Err("Metal shows no GPU; a virtual machine may have none".into());
        };
        if self.listed == 0 {
            return Err(format!(
                "Metal has {} as its default GPU but lists none; log in at the Mac and start the worker there",
                gpu.name
            ));
        }
        Ok(gpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(version: (u64, u64, u64), gpus: usize) -> Mac {
        let gpu = Gpu {
            name: "Apple M4".into(),
            working_set: 12 << 30,
            allocated: 1 << 20,
        };
        Mac {
            version,
            default: (gpus > 0).then_some(gpu),
            listed: gpus,
        }
    }

    #[test]
    fn a_mac_is_used_from_the_oldest_macos_on() {
        for version in [(15, 0, 0), (15, 3, 1), (26, 0, 0), (27, 1, 0)] {
            assert_eq!(
                mac(version, 1).gpu().map(|gpu| gpu.name.as_str()),
                Ok("Apple M4"),
                "{version:?}"
            );
        }
        for (version, text) in [
            ((14, 7, 1), "macOS 14.7.1"),
            ((13, 99, 0), "macOS 13.99.0"),
            ((11, 0, 0), "macOS 11.0.0"),
        ] {
            let fault = mac(version, 1).gpu().expect_err("too old");
            assert!(
                fault.contains(text) && fault.contains("macOS 15.0") && fault.contains("update"),
                "{fault}"
            );
        }
    }

    #[test]
    fn a_missing_gpu_and_an_empty_list_are_told_apart() {
        let fault = mac((15, 1, 0), 0).gpu().expect_err("no GPU").to_owned();
        assert!(fault.contains("shows no GPU"), "{fault}");
        let unlisted = Mac {
            listed: 0,
            ..mac((15, 1, 0), 1)
        };
        let fault = unlisted.gpu().expect_err("candle would panic");
        assert!(
            fault.contains("Apple M4") && fault.contains("lists none"),
            "{fault}"
        );
    }

    #[test]
    fn programs_are_linked_for_the_oldest_macos() {
        let wanted = format!("-mmacosx-version-min={}.{}\"", OLDEST.0, OLDEST.1);
        for script in [
            include_str!("../../build.rs"),
            include_str!("../../../build.rs"),
        ] {
            assert!(script.contains(&wanted), "{script}");
        }
        let docs = include_str!("../../../../docs/SETUP_M4.md");
        assert!(docs.contains(&format!("macOS {}", OLDEST.0)), "{docs}");
    }
}
