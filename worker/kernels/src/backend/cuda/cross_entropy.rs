//! Cross entropy: products with the output layer, a chunk of rows at a time, and the launch of the
//! loss.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::sys::{
    CUdevice_attribute as OfDevice, CUfunction_attribute as OfFunction,
};
use candle_core::cuda_backend::cudarc::driver::{LaunchConfig, PushKernelArg};
use candle_core::{CudaDevice, DType, Tensor};
use half::bf16;

use super::buffer::{Input, address, device_of, finish, unwritten};
use super::gpu;
use super::launch::spread;
use super::matmul::{Onto, product};
use super::plans::Kind;
use crate::Result;
use crate::types::loss::{Head, LossAndGrad};

/// Threads that go over a row.
const THREADS: usize = 1024;
/// Elements of a part of a row, eight a thread, and its bytes.
const PART: usize = 8 * THREADS;
const PART_BYTES: usize = PART * size_of::<f32>();
/// Shared memory that the kernel needs besides, at the most.
const REDUCTIONS: usize = 1024;

/// See [`crate::backend::Backend::logits`]; `weight` is the head's.
pub(super) fn logits(hidden: &Tensor, head: Head<'_>, weight: &Tensor) -> Result<Tensor> {
    let logits = scaled(hidden, head, weight)?;
    if let Some(cap) = head.cap {
        cap_in_place(&logits, cap)?;
    }
    Ok(logits)
}

/// Logits before the cap, in `f32`.
fn scaled(hidden: &Tensor, head: Head<'_>, weight: &Tensor) -> Result<Tensor> {
    let scale = head.scale as f32;
    product(
        Kind::Forward,
        hidden,
        weight,
        scale,
        Onto::Nothing,
        DType::F32,
    )
}

/// Puts `logits`, which nothing else holds, under the soft cap.
fn cap_in_place(logits: &Tensor, cap: f32) -> Result<()> {
    let (n, at) = (logits.elem_count(), address(logits, DType::F32)?);
    let function = gpu::function(&device_of(logits)?, "cross_entropy", "cap_logits")?;
    let length = n as i64;
    let mut launch = function.builder();
    launch.arg(&at).arg(&length).arg(&cap);
    // SAFETY: arguments are those of the kernel, whose threads have eight elements.
    unsafe { launch.launch(spread(n.div_ceil(8))) }.w()?;
    Ok(())
}

/// See [`crate::backend::Backend::cross_entropy`]: every chunk's gradient goes to its place in one
/// matrix. `weight` is the head's.
pub(super) fn forward_backward(
    hidden: &Tensor,
    head: Head<'_>,
    weight: &Tensor,
    targets: &[u32],
    scale: Option<f64>,
) -> Result<LossAndGrad> {
    if targets.len() != hidden.dim(0)? {
        candle_core::bail!(
            "{} targets for {} hidden rows",
            targets.len(),
            hidden.dim(0)?
        )
    }
    let grad = scale
        .map(|_| unwritten(hidden.dims2()?, DType::BF16, &device_of(hidden)?))
        .transpose()?;
    let (rows, mut losses) = (head.rows.max(1), Vec::new());
    for (i, chunk) in targets.chunks(rows).enumerate() {
        let part = |of: &Tensor| of.narrow(0, i * rows, chunk.len());
        let logits = scaled(&part(hidden)?, head, weight)?;
        let (loss, dlogits) = loss_and_grad(&logits, head.cap, chunk, scale)?;
        losses.push(loss);
        if let (Some(dlogits), Some(grad)) = (dlogits, &grad) {
            product(
                Kind::Backward,
                &dlogits,
                weight,
                head.scale as f32,
                Onto::At(part(grad)?),
                DType::BF16,
            )?;
        }
    }
    Ok(LossAndGrad {
        sum: losses.into(),
        grad,
    })
}

/// The losses [L] of `logits` [L, V] in `f32` under the soft cap `cap`, and the gradient of their
/// sum times `scale` in bf16 where there is one.
pub(super) fn loss_and_grad(
    logits: &Tensor,
    cap: Option<f32>,
    targets: &[u32],
    scale: Option<f64>,
) -> Result<(Tensor, Option<Tensor>)> {
    let device = device_of(logits)?;
    let (rows, v) = logits.dims2()?;
    if targets.len() != rows || targets.iter().any(|&target| target as usize >= v) {
        candle_core::bail!("{} targets for {rows} rows of {v} logits", targets.len())
    }
    let targets = Tensor::new(targets, logits.device())?;
    let (logits, targets) = (Input::of(logits)?, Input::of(&targets)?);
    // SAFETY: the kernel writes every element of both.
    let (mut losses, mut grad) = unsafe {
        (
            device.alloc::<f32>(rows)?,
            device.alloc::<bf16>(if scale.is_some() { rows * v } else { 1 })?,
        )
    };
    let parts = if scale.is_some() {
        parts_kept(&device, v)?
    } else {
        0
    };
    let name = if cap.is_some() {
        "cross_entropy_capped"
    } else {
        "cross_entropy"
    };
    let function = gpu::function(&device, "cross_entropy", name)?.into_cuda_function();
    let shared = (parts * PART_BYTES) as u32;
    function
        .set_attribute(
            OfFunction::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
            shared as i32,
        )
        .w()?;
    let (logits, targets) = (logits.slice::<f32>()?, targets.slice::<u32>()?);
    let (width, factor, kept, none) = (v as i32, scale.unwrap_or(0.0) as f32, parts as i32, 0u64);
    let stream = device.cuda_stream();
    let mut launch = stream.launch_builder(&function);
    launch
        .arg(&logits)
        .arg(&targets)
        .arg(&width)
        .arg(&factor)
        .arg(&kept)
        .arg(&mut losses);
    match scale {
        Some(_) => launch.arg(&mut grad),
        None => launch.arg(&none),
    };
    if let Some(cap) = &cap {
        launch.arg(cap);
    }
    let grid = LaunchConfig {
        grid_dim: (rows as u32, 1, 1),
        block_dim: (THREADS as u32, 1, 1),
        shared_mem_bytes: shared,
    };
    // SAFETY: arguments are those of the kernel; a block goes over one row, shared memory has room
    // for `kept` parts of it, and targets were checked.
    unsafe { launch.launch(grid) }.w()?;
    drop(launch);
    let losses = finish(losses, device.clone(), rows)?;
    let grad = scale.map(|_| finish(grad, device, (rows, v))).transpose()?;
    Ok((losses, grad))
}

/// Parts of a row of `v` logits that a block keeps in shared memory.
fn parts_kept(device: &CudaDevice, v: usize) -> Result<usize> {
    let context = device.cuda_stream().context().clone();
    let most = context
        .attribute(OfDevice::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
        .w()?;
    Ok(((most.max(0) as usize).saturating_sub(REDUCTIONS) / PART_BYTES).min(v.div_ceil(PART)))
}
