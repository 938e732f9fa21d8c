//! The device that a run computes on, and the element type that suits it.

use candle_core::{DType, Device};
use qlora_config::{Compute, DeviceKind, FlashAttention, TrainingConfig};
use qlora_kernels::{AttentionShape, Instructions, Products};
use qlora_planner::{DeviceBudget, MemoryPolicy, ModelShape};

use crate::error::is_out_of_memory;
use crate::model::Decoder;
use crate::{Error, Result};

/// Opens the device of the given kind; [`DeviceKind::Any`] takes the fastest that this build and machine have.
pub fn open(kind: DeviceKind) -> Result<Device> {
    match kind {
        DeviceKind::Cpu => Ok(Device::Cpu),
        DeviceKind::Cuda => cuda(),
        DeviceKind::Metal => metal(),
        DeviceKind::Any => Ok(cuda().or_else(|_| metal()).unwrap_or(Device::Cpu)),
    }
}

fn metal() -> Result<Device> {
    crate::metal::open().map_err(|fault| Error::Device { name: "metal".into(), fault })
}

#[cfg(feature = "cuda")]
fn cuda() -> Result<Device> {
    qlora_kernels::cuda::open(0).map_err(|e| Error::Device { name: "cuda".into(), fault: e.to_string() })
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Result<Device> {
    Err(Error::Device { name: "cuda".into(), fault: "this program was built without the `cuda` feature".into() })
}

/// Loads what a GPU of CUDA needs besides its driver.
///
/// # Errors
/// A library is missing: which, and what to install. A build without the `cuda` feature needs none.
pub fn cuda_libraries() -> Result<()> {
    #[cfg(feature = "cuda")]
    qlora_kernels::cuda::load().map_err(|e| Error::Device { name: "cuda".into(), fault: e.to_string() })?;
    Ok(())
}

/// Chooses the attention that a GPU computes with, for sequences of up to `length` tokens, and says which it is; none
/// where there is nothing to choose.
///
/// # Errors
/// cuDNN is asked for and cannot be had.
pub fn choose_attention(
    shape: &ModelShape,
    wanted: FlashAttention,
    length: usize,
    device: &Device,
) -> Result<Option<String>> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        use qlora_kernels::cuda::choice::{Wanted, choose};
        let wanted = match wanted {
            FlashAttention::Auto | FlashAttention::Required => Wanted::Fastest,
            FlashAttention::Repeatable | FlashAttention::Off => Wanted::Repeatable,
            FlashAttention::Cudnn => Wanted::Cudnn,
        };
        return Ok(Some(choose(device, wanted, &attention_shape(shape), length)?.to_string()));
    }
    let _ = (shape, wanted, length, device);
    Ok(None)
}

/// The version of the cuDNN that runs on a GPU may take their attention from; none in a build without the `cuda` feature.
///
/// # Errors
/// There is none: why.
pub fn cudnn() -> Option<std::result::Result<String, String>> {
    #[cfg(feature = "cuda")]
    return Some(qlora_kernels::cuda::choice::cudnn().map_err(|e| first_line(&e.to_string())));
    #[cfg(not(feature = "cuda"))]
    None
}

/// Kernel files of a GPU that come from the folder `QLORA_KERNELS`.
pub(crate) fn replaced_kernels(device: &Device) -> Vec<&'static str> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return qlora_kernels::cuda::replaced_kernels();
    }
    let _ = device;
    Vec::new()
}

/// The sizes of a model's attention.
pub(crate) fn attention_shape(shape: &ModelShape) -> AttentionShape {
    let &ModelShape { heads, kv_heads, head_dim, sliding_window: window, .. } = shape;
    AttentionShape { heads, kv_heads, head_dim, window }
}

/// How a run uses the memory of `device`.
pub fn memory_policy(shape: &ModelShape, config: &TrainingConfig, device: &Device) -> Result<MemoryPolicy> {
    Ok(qlora_planner::search(shape, config, budget(device)?))
}

/// The kind of `device`.
pub fn kind(device: &Device) -> DeviceKind {
    match device {
        Device::Cpu => DeviceKind::Cpu,
        Device::Cuda(_) => DeviceKind::Cuda,
        Device::Metal(_) => DeviceKind::Metal,
    }
}

/// Bytes of the GPU's memory that a run may plan with: all that nobody else holds.
#[cfg(feature = "cuda")]
fn budget(device: &Device) -> Result<Option<DeviceBudget>> {
    if !device.is_cuda() {
        return Ok(None);
    }
    let bytes = qlora_kernels::cuda::memory::available(device)?;
    Ok(Some(DeviceBudget { kind: DeviceKind::Cuda, bytes }))
}

#[cfg(not(feature = "cuda"))]
fn budget(_: &Device) -> Result<Option<DeviceBudget>> {
    Ok(None)
}

/// Part of the planned memory that a run which did not fit is advised to stay within.
const LESS: f64 = 0.85;

/// A device's lack of memory, with changes that take less; other errors stay as they are.
pub(crate) fn with_advice(e: Error, decoder: &Decoder, config: &TrainingConfig) -> Error {
    let Error::Tensors(fault) = &e else { return e };
    if !is_out_of_memory(fault) {
        return e;
    }
    let kind = kind(&decoder.device);
    let planned = qlora_planner::plan(&decoder.shape, config, kind).total();
    let bytes = (planned as f64 * LESS / config.resources.memory_fraction) as u64;
    let advice = match qlora_planner::fit(&decoder.shape, config, DeviceBudget { kind, bytes }) {
        Err(refused) if !refused.suggestions.is_empty() => format!("set {}", refused.suggestions.join(", or ")),
        _ => "take a GPU with more memory, or a smaller model".into(),
    };
    let advice = format!("{:.1} GiB were planned; {advice}", planned as f64 / (1u64 << 30) as f64);
    Error::Memory { fault: first_line(&fault.to_string()), advice }
}

/// What candle's error says; the other lines are where in the program.
fn first_line(fault: &str) -> String {
    fault.lines().next().unwrap_or_default().to_owned()
}

/// Most bytes of tensors that were on a GPU at one time since [`forget_peak`]; none elsewhere.
pub fn peak(device: &Device) -> Result<Option<u64>> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return Ok(Some(qlora_kernels::cuda::memory::peak(device)?));
    }
    let _ = device;
    Ok(None)
}

/// Begins a new measurement of [`peak`].
pub fn forget_peak(device: &Device) -> Result<()> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        qlora_kernels::cuda::memory::forget_peak(device)?;
    }
    let _ = device;
    Ok(())
}

/// `bf16` on a GPU; `f32` on a processor, whose products candle computes in `f32`.
pub fn compute_dtype(device: &Device) -> DType {
    if device.is_cpu() { DType::F32 } else { DType::BF16 }
}

/// How products are computed on `device`: `auto` takes bf16 on a processor that has instructions for it.
pub fn products(wanted: Compute, device: &Device) -> Products {
    let best = Instructions::best();
    match wanted {
        Compute::Auto if device.is_cpu() && best.are_fast() => Products::Strips(best),
        Compute::Bf16 if device.is_cpu() => Products::Strips(best),
        #[cfg(feature = "cuda")]
        Compute::Auto | Compute::Bf16 if device.is_cuda() => Products::CublasLt,
        _ => Products::WrittenOut,
    }
}

/// How this processor multiplies when it is asked for `auto`, in words.
pub fn processor_products() -> &'static str {
    match Instructions::best() {
        Instructions::Amx => "bf16 on AMX tiles",
        Instructions::Avx512Bf16 => "bf16 on AVX512-BF16",
        Instructions::Avx2 => "bf16 widened to f32, on AVX2",
        Instructions::Neon => "bf16 widened to f32, on NEON",
        Instructions::Portable => "f32",
    }
}
