//! The device that a run computes on, and the element type that suits it.

use std::sync::Arc;

use candle_core::Device;
use qlora_config::{Compute, DeviceKind, FlashAttention, ModelConfig, TrainingConfig};
use qlora_kernels::types::options::{
    self as kernels, AttentionOptions, LoraOptions, Options, WantedAttention,
};
use qlora_kernels::{AttentionShape, Backend, Instructions, backend};
use qlora_planner::{DeviceBudget, MemoryPolicy, ModelShape};

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

/// What computes a run of `config` on `device`, for sequences of up to `length` tokens. What
/// computes each operation is chosen here, once.
///
/// # Errors
/// The device does not have what the configuration asks for.
pub fn backend(
    shape: &ModelShape,
    config: &TrainingConfig,
    length: usize,
    device: &Device,
) -> Result<Arc<dyn Backend>> {
    let wanted = match config.training.flash_attention {
        FlashAttention::Auto => WantedAttention::Fastest,
        FlashAttention::Required => WantedAttention::Flash,
        FlashAttention::Repeatable | FlashAttention::Off => WantedAttention::Repeatable,
        FlashAttention::Cudnn => WantedAttention::Cudnn,
    };
    with_attention(
        shape,
        config,
        AttentionOptions {
            shape: attention_shape(shape, 0),
            wanted,
            length,
        },
        device,
    )
}

/// [`backend`] with an attention of the caller's choice.
pub(crate) fn with_attention(
    shape: &ModelShape,
    config: &TrainingConfig,
    attention: AttentionOptions,
    device: &Device,
) -> Result<Arc<dyn Backend>> {
    let widths = [shape.hidden, shape.heads * shape.head_dim, shape.ffn];
    let lora = Some(LoraOptions {
        rank: config.lora.r,
        widths,
    });
    let options = Options {
        compute: compute(&config.model),
        attention: Some(attention),
        lora,
    };
    backend::open(device, &options).map_err(|fault| match attention.wanted {
        WantedAttention::Flash => Error::Config {
            key: "training.flash_attention",
            fault: format!("cannot be met: {}", first_line(&fault.to_string())),
            help: "set it to auto, with which attention saved the scores of every pair of tokens",
        },
        _ => fault.into(),
    })
}

/// What computes the answers of a model that is not trained.
///
/// # Errors
/// See [`backend`].
pub fn answering_backend(
    shape: &ModelShape,
    model: &ModelConfig,
    device: &Device,
) -> Result<Arc<dyn Backend>> {
    let (shape, wanted) = (attention_shape(shape, 0), WantedAttention::Repeatable);
    let attention = Some(AttentionOptions {
        shape,
        wanted,
        length: 1,
    });
    Ok(backend::open(
        device,
        &Options {
            compute: compute(model),
            attention,
            lora: None,
        },
    )?)
}

fn compute(model: &ModelConfig) -> kernels::Compute {
    match model.compute {
        Compute::Auto => kernels::Compute::Auto,
        Compute::Bf16 => kernels::Compute::Bf16,
        Compute::F32 => kernels::Compute::F32,
    }
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

/// How a run uses the memory of the device that `backend` computes on: all that nobody else holds.
pub fn memory_policy(
    shape: &ModelShape,
    config: &TrainingConfig,
    backend: &dyn Backend,
) -> Result<MemoryPolicy> {
    let bytes = backend.available_bytes()?;
    let budget = bytes.map(|bytes| DeviceBudget {
        kind: kind(backend.device()),
        bytes,
    });
    Ok(qlora_planner::search(shape, config, budget))
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
pub fn processor_products() -> &'static str {
    let best = Instructions::best();
    if best.are_fast() { best.words() } else { "f32" }
}
