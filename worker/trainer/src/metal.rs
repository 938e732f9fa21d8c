//! The GPU of a Mac: what must be there before candle opens it, and what a run does so that its memory stays small.
//!
//! candle checks none of it: it panics before macOS 15 and where Metal lists no GPU, never releases what Metal
//! autoreleases, and frees what it uploads only where it waits. This module computes nothing.

use candle_core::Device;
use qlora_config::LoraConfig;
use qlora_kernels::Span;
use qlora_planner::ModelShape;
use qlora_planner::uploads::{self, Sequence};

use crate::Result;

/// The oldest macOS on which candle runs: it asks for a residency set, which older ones do not have.
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

        let number = |n: isize| n.unsigned_abs() as u64;
        Ok(autoreleased(|| {
            let version = objc2_foundation::NSProcessInfo::processInfo().operatingSystemVersion();
            let version = (number(version.majorVersion), number(version.minorVersion), number(version.patchVersion));
            let default = objc2_metal::MTLCreateSystemDefaultDevice().map(|device| Gpu {
                name: device.name().to_string(),
                working_set: device.recommendedMaxWorkingSetSize(),
                allocated: device.currentAllocatedSize() as u64,
            });
            Self { version, default, listed: objc2_metal::MTLCopyAllDevices().len() }
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

/// Opens the GPU.
///
/// # Errors
/// There is none that candle can open, or its kernels for bf16 are not there: why, and what to do.
#[cfg(feature = "metal")]
pub fn open() -> Result<Device, String> {
    Mac::ask()?.gpu()?;
    let device = autoreleased(|| Device::new_metal(0)).map_err(|e| e.to_string())?;
    autoreleased(|| convert_bf16(&device)).map_err(|e| {
        format!(
            "its kernels for bf16 cannot be used ({e}); build with deploy/setup_mac.sh, which links the worker for macOS {}.{}",
            OLDEST.0, OLDEST.1
        )
    })?;
    Ok(device)
}

/// # Errors
/// This program was built without Metal.
#[cfg(not(feature = "metal"))]
pub fn open() -> Result<Device, String> {
    Err("this program was built without the `metal` feature".into())
}

/// Uses a kernel that is left out where the program was linked for an older macOS.
#[cfg(feature = "metal")]
fn convert_bf16(device: &Device) -> candle_core::Result<()> {
    let one = candle_core::Tensor::new(&[half::bf16::ONE], device)?.to_dtype(candle_core::DType::F32)?;
    match one.to_vec1::<f32>()?[..] {
        [1.0] => Ok(()),
        ref other => candle_core::bail!("1 becomes {other:?}"),
    }
}

/// Does `work`, and releases what Metal autoreleased on this thread meanwhile.
#[cfg(target_os = "macos")]
pub(crate) fn autoreleased<T>(work: impl FnOnce() -> T) -> T {
    objc2::rc::autoreleasepool(|_| work())
}

/// Does `work`.
#[cfg(not(target_os = "macos"))]
pub(crate) fn autoreleased<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// Waits for a Mac's GPU, which frees what was uploaded; other devices go on.
///
/// # Errors
/// Any work since the last such wait has failed. candle's reads report the latest work only.
pub(crate) fn wait(device: &Device) -> Result<()> {
    if device.is_metal() {
        device.synchronize()?;
    }
    Ok(())
}

/// Uploads of one pass through the blocks, which candle keeps until it waits for the GPU.
pub(crate) struct Uploads<'a> {
    device: &'a Device,
    pile: Pile,
}

impl<'a> Uploads<'a> {
    /// Begins a forward pass, with no upload left from before; `lora` where its dropout is in effect.
    pub fn forward(device: &'a Device, shape: &ModelShape, lora: Option<&LoraConfig>, spans: &[Span]) -> Result<Self> {
        Self::begin(device, uploads::forward(shape, lora, &sequences(spans)))
    }

    /// Begins the backward pass.
    pub fn backward(device: &'a Device, shape: &ModelShape, lora: &LoraConfig, spans: &[Span]) -> Result<Self> {
        Self::begin(device, uploads::backward(shape, lora, &sequences(spans)))
    }

    fn begin(device: &'a Device, of_block: u64) -> Result<Self> {
        wait(device)?;
        Ok(Self { device, pile: Pile { of_block, bytes: 0 } })
    }

    /// A block has been given to the GPU.
    pub fn after_block(&mut self) -> Result<()> {
        if self.pile.is_high() { wait(self.device) } else { Ok(()) }
    }
}

/// Lengths of the sequences that `spans` are.
fn sequences(spans: &[Span]) -> Vec<Sequence> {
    spans.iter().map(|span| Sequence { queries: span.q.len(), keys: span.k.len() }).collect()
}

/// How many bytes have been uploaded since the last wait.
struct Pile {
    of_block: u64,
    bytes: u64,
}

impl Pile {
    /// Adds a block's; true where they reach the bound, and then the caller waits and the pile begins anew.
    fn is_high(&mut self) -> bool {
        self.bytes += self.of_block;
        let high = self.bytes >= uploads::BOUND;
        if high {
            self.bytes = 0;
        }
        high
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(version: (u64, u64, u64), gpus: usize) -> Mac {
        let gpu = Gpu { name: "Apple M4".into(), working_set: 12 << 30, allocated: 1 << 20 };
        Mac { version, default: (gpus > 0).then_some(gpu), listed: gpus }
    }

    #[test]
    fn a_mac_is_used_from_the_oldest_macos_on() {
        for version in [(15, 0, 0), (15, 3, 1), (26, 0, 0), (27, 1, 0)] {
            assert_eq!(mac(version, 1).gpu().map(|gpu| gpu.name.as_str()), Ok("Apple M4"), "{version:?}");
        }
        for (version, text) in
            [((14, 7, 1), "macOS 14.7.1"), ((13, 99, 0), "macOS 13.99.0"), ((11, 0, 0), "macOS 11.0.0")]
        {
            let fault = mac(version, 1).gpu().expect_err("too old");
            assert!(fault.contains(text) && fault.contains("macOS 15.0") && fault.contains("update"), "{fault}");
        }
    }

    #[test]
    fn a_missing_gpu_and_an_empty_list_are_told_apart() {
        let fault = mac((15, 1, 0), 0).gpu().expect_err("no GPU").to_owned();
        assert!(fault.contains("shows no GPU"), "{fault}");
        let unlisted = Mac { listed: 0, ..mac((15, 1, 0), 1) };
        let fault = unlisted.gpu().expect_err("candle would panic");
        assert!(fault.contains("Apple M4") && fault.contains("lists none"), "{fault}");
    }

    #[test]
    fn programs_are_linked_for_the_oldest_macos() {
        let wanted = format!("-mmacosx-version-min={}.{}\"", OLDEST.0, OLDEST.1);
        for script in [include_str!("../build.rs"), include_str!("../../build.rs")] {
            assert!(script.contains(&wanted), "{script}");
        }
        let docs = include_str!("../../../docs/SETUP_M4.md");
        assert!(docs.contains(&format!("macOS {}", OLDEST.0)), "{docs}");
    }

    #[test]
    fn uploads_never_exceed_the_bound_by_more_than_a_block() {
        for of_block in [1, 3 << 20, uploads::BOUND / 3, uploads::BOUND - 1, uploads::BOUND, 5 * uploads::BOUND] {
            let (mut pile, mut there, mut waits) = (Pile { of_block, bytes: 0 }, 0, 0);
            for _ in 0..64 {
                there += of_block;
                assert!(there < uploads::BOUND + of_block, "{there} with {of_block} a block");
                if pile.is_high() {
                    (there, waits) = (0, waits + 1);
                }
            }
            assert_eq!(waits, 64 / uploads::BOUND.div_ceil(of_block), "{of_block} a block");
        }
    }
}
