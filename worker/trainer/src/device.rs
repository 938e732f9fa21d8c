//! The devices of this machine, and what computes on them.

use candle_core::Device;
use qlora_config::DeviceKind;
use qlora_kernels::types::options::Options;
use qlora_kernels::{AttentionShape, Instructions, backend};
use qlora_planner::ModelShape;

pub use qlora_kernels::backend::{HAS_CUDA, HAS_METAL};

use crate::error::first_line;
use crate::{Error, Result};

/// Opens the device of the given kind; [`DeviceKind::Any`] takes the fastest that this build and
/// machine have.
pub fn open(kind: DeviceKind) -> Result<Device> {
    match kind {
        DeviceKind::Cpu => Ok(Device::Cpu),
        DeviceKind::Cuda => cuda(),
        DeviceKind::Metal => metal(),
        DeviceKind::Any => Ok(cuda().or_else(|_| metal()).unwrap_or(Device::Cpu)),
    }
}

fn metal() -> Result<Device> {
    crate::metal::open().map_err(|fault| Error::Device {
        name: "metal".into(),
        fault,
    })
}

fn cuda() -> Result<Device> {
    backend::open_cuda(0).map_err(|fault| Error::Device {
        name: "cuda".into(),
        fault,
    })
}

/// Loads what a GPU of CUDA needs besides its driver.
///
/// # Errors
/// A library is missing: which, and what to install. A build without the `cuda` feature needs none.
pub fn cuda_libraries() -> Result<()> {
    backend::load_cuda_libraries().map_err(|fault| Error::Device {
        name: "cuda".into(),
        fault,
    })
}

/// The version of the cuDNN that runs on a GPU may take their attention from; none in a build
/// without the `cuda` feature.
///
/// # Errors
/// There is none: why.
pub fn cudnn() -> Option<std::result::Result<String, String>> {
    backend::cudnn_version().map(|found| found.map_err(|fault| first_line(&fault)))
}

/// The sizes of attention in the block `layer` of a model.
pub(crate) fn attention_shape(shape: &ModelShape, layer: usize) -> AttentionShape {
    let plain = AttentionShape::new(shape.heads, shape.kv_heads, shape.head_dim);
    AttentionShape {
        window: shape.layer(layer).window,
        scale: shape
            .form
            .score_scale
            .map_or(plain.scale, |scale| scale as f32),
        cap: shape.form.score_cap.map(|cap| cap as f32),
        ..plain
    }
}

/// The kind of `device`.
pub fn kind(device: &Device) -> DeviceKind {
    match device {
        Device::Cpu => DeviceKind::Cpu,
        Device::Cuda(_) => DeviceKind::Cuda,
        Device::Metal(_) => DeviceKind::Metal,
    }
}

/// What computes each operation on a device of the given kind, in a line.
///
/// # Errors
/// The device cannot be opened.
pub fn operations(kind: DeviceKind) -> Result<String> {
    Ok(backend::open(&open(kind)?, &Options::default())?
        .forms()
        .to_string())
}

/// How this CPU multiplies when it is asked for `auto`, in words.
pub fn cpu_matmul() -> &'static str {
    let best = Instructions::best();
    if best.are_fast() { best.words() } else { "f32" }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use qlora_kernels::types::attention::CUDA_HEADS;
    use qlora_kernels::types::forms::{Form, Operation};
    use qlora_planner::{FlashHeads, flash_heads};

    use super::*;

    #[test]
    fn the_planner_knows_for_which_heads_the_kernels_have_flash_attention() {
        let is_native = |backend: &dyn qlora_kernels::Backend| {
            matches!(
                backend.forms().of(Operation::Attention),
                Some(Form::Native(_))
            )
        };
        assert_eq!(
            flash_heads(DeviceKind::Cuda),
            FlashHeads::Of(&CUDA_HEADS),
            "worker/planner/src/device.rs and worker/kernels/src/types/attention.rs"
        );
        assert!(is_native(&*backend::host()));
        assert_eq!(flash_heads(DeviceKind::Cpu), FlashHeads::All);
        // What a Mac computes with.
        assert!(!is_native(&*backend::reference(&Device::Cpu, DType::BF16)));
        assert_eq!(flash_heads(DeviceKind::Metal), FlashHeads::None);
    }
}
