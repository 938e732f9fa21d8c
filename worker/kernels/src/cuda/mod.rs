//! The fast forms on NVIDIA GPUs: launches of the kernels beside this file.
//!
//! Their arithmetic is tested on the processor (`tests/emulated.rs`); that they run, and how fast, only a GPU can show.
//! A launch checks element types and sizes before anything is sent to the device.

pub(crate) mod adamw;
pub(crate) mod attention;
mod buffer;
mod gpu;
mod libraries;
pub mod memory;
mod open;
pub(crate) mod products;
pub(crate) mod rows;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{LaunchConfig, PushKernelArg};
use candle_core::{DType, Tensor};
use half::bf16;

pub use self::libraries::{MissingLibrary, load};
pub use self::open::{NoGpu, open};

use self::buffer::{Input, device_of, finish};
use self::gpu::Gpu;
use crate::Result;
use crate::ops::dropout::DropoutKey;
use crate::ops::nf4::{Nf4Scales, Nf4Tensor};

const CROSS_ENTROPY: &str = include_str!(concat!(env!("OUT_DIR"), "/cross_entropy.ptx"));
const DROPOUT: &str = include_str!(concat!(env!("OUT_DIR"), "/dropout.ptx"));
const NF4: &str = include_str!(concat!(env!("OUT_DIR"), "/nf4.ptx"));
const RMS_NORM: &str = include_str!(concat!(env!("OUT_DIR"), "/rms_norm.ptx"));
const ROPE: &str = include_str!(concat!(env!("OUT_DIR"), "/rope.ptx"));
const SWIGLU: &str = include_str!(concat!(env!("OUT_DIR"), "/swiglu.ptx"));

/// Threads of a block.
const THREADS: u32 = 256;
/// Elements that a thread of `nf4_to_bf16` writes.
const NF4_RUN: usize = 32;

/// Whether the fast forms apply: every tensor is bf16 on a GPU, and in one piece.
pub(crate) fn applies(tensors: &[&Tensor]) -> bool {
    let applies = |t: &&Tensor| t.device().is_cuda() && t.dtype() == DType::BF16 && t.is_contiguous();
    tensors.iter().all(applies)
}

/// `work` units of work, one for each thread.
fn spread(work: usize) -> LaunchConfig {
    rows(work.div_ceil(THREADS as usize))
}

/// A block for each row.
fn rows(rows: usize) -> LaunchConfig {
    LaunchConfig { grid_dim: (rows as u32, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 }
}

/// The matrix in bf16, bit for bit as [`Nf4Tensor::reference`] has it.
pub(crate) fn nf4_to_bf16(matrix: &Nf4Tensor) -> Result<Tensor> {
    let device = device_of(matrix.packed())?;
    let gpu = Gpu::of(&device)?;
    let (shape, elements) = (matrix.dims(), matrix.dims().0 * matrix.dims().1);
    if !matrix.block().is_multiple_of(NF4_RUN) {
        candle_core::bail!("blocks of {} elements are not multiples of {NF4_RUN}", matrix.block())
    }
    let packed = Input::of(matrix.packed())?;
    let (codes, scales, offset) = match matrix.scales() {
        Nf4Scales::Plain(absmax) => (None, absmax, 0.0),
        Nf4Scales::Nested { codes, absmax, offset } => (Some(codes), absmax, *offset),
    };
    let (codes, scales, map) = (codes.map(Input::of).transpose()?, Input::of(scales)?, Input::of(&gpu.dynamic_map)?);
    // SAFETY: the kernel writes every element.
    let mut out = unsafe { device.alloc::<bf16>(elements)? };
    let function = device.get_or_load_custom_func("nf4_to_bf16", "qlora_nf4", NF4)?;
    let (packed, scales, map) = (packed.slice::<u8>()?, scales.slice::<f32>()?, map.slice::<f32>()?);
    let codes = codes.as_ref().map(Input::slice::<u8>).transpose()?;
    let (length, block, none) = (elements as i64, matrix.block() as i32, 0u64);
    let mut launch = function.builder();
    launch.arg(&packed);
    match &codes {
        Some(codes) => launch.arg(codes),
        None => launch.arg(&none),
    };
    launch.arg(&scales).arg(&map).arg(&offset).arg(&length).arg(&block).arg(&mut out);
    // SAFETY: arguments are those of the kernel, and sizes were checked when the matrix was made.
    unsafe { launch.launch(spread(elements.div_ceil(NF4_RUN))) }.w()?;
    drop(launch);
    finish(out, device, shape)
}

/// See [`crate::ops::rms_norm::forward`].
pub(crate) fn rms_norm_forward(x: &Tensor, w: &Tensor, epsilon: f64) -> Result<(Tensor, Tensor)> {
    let device = device_of(x)?;
    let (m, d) = x.dims2()?;
    let (x, w) = (Input::of(x)?, Input::of(w)?);
    // SAFETY: the kernel writes every element of both.
    let (mut y, mut rho) = unsafe { (device.alloc::<bf16>(m * d)?, device.alloc::<f32>(m)?) };
    let function = device.get_or_load_custom_func("rms_norm_forward", "qlora_rms_norm", RMS_NORM)?;
    let (x, w, width, epsilon) = (x.slice::<bf16>()?, w.slice::<bf16>()?, d as i32, epsilon as f32);
    let mut launch = function.builder();
    launch.arg(&x).arg(&w).arg(&width).arg(&epsilon).arg(&mut y).arg(&mut rho);
    // SAFETY: arguments are those of the kernel; a block goes over one of the `m` rows of `d` elements.
    unsafe { launch.launch(rows(m)) }.w()?;
    drop(launch);
    Ok((finish(y, device.clone(), (m, d))?, finish(rho, device, (m, 1))?))
}

/// See [`crate::ops::rms_norm::backward`].
pub(crate) fn rms_norm_backward(
    dy: &Tensor,
    x: &Tensor,
    w: &Tensor,
    rho: &Tensor,
    base: Option<&Tensor>,
) -> Result<Tensor> {
    let device = device_of(x)?;
    let (m, d) = x.dims2()?;
    let (dy, x, w, rho) = (Input::of(dy)?, Input::of(x)?, Input::of(w)?, Input::of(rho)?);
    let base = base.map(Input::of).transpose()?;
    // SAFETY: the kernel writes every element.
    let mut dx = unsafe { device.alloc::<bf16>(m * d)? };
    let function = device.get_or_load_custom_func("rms_norm_backward", "qlora_rms_norm", RMS_NORM)?;
    let (dy, x, w, rho) = (dy.slice::<bf16>()?, x.slice::<bf16>()?, w.slice::<bf16>()?, rho.slice::<f32>()?);
    let base = base.as_ref().map(Input::slice::<bf16>).transpose()?;
    let (width, none) = (d as i32, 0u64);
    let mut launch = function.builder();
    launch.arg(&dy).arg(&x).arg(&w).arg(&rho);
    match &base {
        Some(base) => launch.arg(base),
        None => launch.arg(&none),
    };
    launch.arg(&width).arg(&mut dx);
    // SAFETY: arguments are those of the kernel; a block goes over one of the `m` rows of `d` elements.
    unsafe { launch.launch(rows(m)) }.w()?;
    drop(launch);
    finish(dx, device, (m, d))
}

/// See [`crate::ops::swiglu::forward`].
pub(crate) fn swiglu_forward(g: &Tensor, e: &Tensor) -> Result<Tensor> {
    let device = device_of(g)?;
    let (shape, n) = (g.dims2()?, g.elem_count());
    let (g, e) = (Input::of(g)?, Input::of(e)?);
    // SAFETY: the kernel writes every element.
    let mut h = unsafe { device.alloc::<bf16>(n)? };
    let function = device.get_or_load_custom_func("swiglu_forward", "qlora_swiglu", SWIGLU)?;
    let (g, e, length) = (g.slice::<bf16>()?, e.slice::<bf16>()?, n as i64);
    let mut launch = function.builder();
    launch.arg(&g).arg(&e).arg(&length).arg(&mut h);
    // SAFETY: arguments are those of the kernel, all of `n` elements.
    unsafe { launch.launch(spread(n)) }.w()?;
    drop(launch);
    finish(h, device, shape)
}

/// See [`crate::ops::swiglu::backward`].
pub(crate) fn swiglu_backward(dh: &Tensor, g: &Tensor, e: &Tensor) -> Result<(Tensor, Tensor)> {
    let device = device_of(g)?;
    let (shape, n) = (g.dims2()?, g.elem_count());
    let (dh, g, e) = (Input::of(dh)?, Input::of(g)?, Input::of(e)?);
    // SAFETY: the kernel writes every element of both.
    let (mut dg, mut de) = unsafe { (device.alloc::<bf16>(n)?, device.alloc::<bf16>(n)?) };
    let function = device.get_or_load_custom_func("swiglu_backward", "qlora_swiglu", SWIGLU)?;
    let (dh, g, e, length) = (dh.slice::<bf16>()?, g.slice::<bf16>()?, e.slice::<bf16>()?, n as i64);
    let mut launch = function.builder();
    launch.arg(&dh).arg(&g).arg(&e).arg(&length).arg(&mut dg).arg(&mut de);
    // SAFETY: arguments are those of the kernel, all of `n` elements.
    unsafe { launch.launch(spread(n)) }.w()?;
    drop(launch);
    Ok((finish(dg, device.clone(), shape)?, finish(de, device, shape)?))
}

/// The losses [L] of `logits` [L, V] in `f32`, and the gradient of their sum times `scale` in bf16 where there is one.
pub(crate) fn cross_entropy(logits: &Tensor, targets: &[u32], scale: Option<f64>) -> Result<(Tensor, Option<Tensor>)> {
    let device = device_of(logits)?;
    let (rows_of, v) = logits.dims2()?;
    if targets.len() != rows_of || targets.iter().any(|&target| target as usize >= v) {
        candle_core::bail!("{} targets for {rows_of} rows of {v} logits", targets.len())
    }
    let targets = Tensor::new(targets, logits.device())?;
    let (logits, targets) = (Input::of(logits)?, Input::of(&targets)?);
    // SAFETY: the kernel writes every element of both.
    let (mut losses, mut grad) = unsafe {
        (device.alloc::<f32>(rows_of)?, device.alloc::<bf16>(if scale.is_some() { rows_of * v } else { 1 })?)
    };
    let function = device.get_or_load_custom_func("cross_entropy", "qlora_cross_entropy", CROSS_ENTROPY)?;
    let (logits, targets) = (logits.slice::<f32>()?, targets.slice::<u32>()?);
    let (width, factor, none) = (v as i32, scale.unwrap_or(0.0) as f32, 0u64);
    let mut launch = function.builder();
    launch.arg(&logits).arg(&targets).arg(&width).arg(&factor).arg(&mut losses);
    match scale {
        Some(_) => launch.arg(&mut grad),
        None => launch.arg(&none),
    };
    // SAFETY: arguments are those of the kernel; a block goes over one row, and targets were checked.
    unsafe { launch.launch(rows(rows_of)) }.w()?;
    drop(launch);
    let losses = finish(losses, device.clone(), rows_of)?;
    let grad = scale.map(|_| finish(grad, device, (rows_of, v))).transpose()?;
    Ok((losses, grad))
}

/// See [`crate::ops::dropout::add`].
pub(crate) fn dropout(x: &Tensor, key: &DropoutKey, base: Option<&Tensor>) -> Result<Tensor> {
    let device = device_of(x)?;
    let (m, d) = x.dims2()?;
    let (x, base) = (Input::of(x)?, base.map(Input::of).transpose()?);
    // SAFETY: the kernel writes every element.
    let mut out = unsafe { device.alloc::<bf16>(m * d)? };
    let function = device.get_or_load_custom_func("dropout", "qlora_dropout", DROPOUT)?;
    let (x, base) = (x.slice::<bf16>()?, base.as_ref().map(Input::slice::<bf16>).transpose()?);
    let (length, first, none) = ((m * d) as i64, key.first_token * d as u64, 0u64);
    let (low, high) = (key.seed as u32, (key.seed >> 32) as u32);
    let (threshold, kept) = (key.threshold(), key.kept());
    let mut launch = function.builder();
    launch.arg(&x);
    match &base {
        Some(base) => launch.arg(base),
        None => launch.arg(&none),
    };
    launch.arg(&length).arg(&first).arg(&low).arg(&high).arg(&key.projection).arg(&key.step);
    launch.arg(&threshold).arg(&kept).arg(&mut out);
    // SAFETY: arguments are those of the kernel; the first group may begin before the tensor, hence one more.
    unsafe { launch.launch(spread((m * d).div_ceil(8) + 1)) }.w()?;
    drop(launch);
    finish(out, device, (m, d))
}

/// Turns the heads of `x` [M, width] by the angles of `positions` [M], forward for a `sign` of 1.
pub(crate) fn rope(
    x: &Tensor,
    positions: &Tensor,
    (cos, sin): (&Tensor, &Tensor),
    head: usize,
    sign: f32,
) -> Result<Tensor> {
    let device = device_of(x)?;
    let (m, width) = x.dims2()?;
    if positions.dims() != [m] || !width.is_multiple_of(head) {
        candle_core::bail!("{:?} positions for {m} rows of {width} elements in heads of {head}", positions.dims())
    }
    let (x, positions, cos, sin) = (Input::of(x)?, Input::of(positions)?, Input::of(cos)?, Input::of(sin)?);
    // SAFETY: the kernel writes every element.
    let mut y = unsafe { device.alloc::<bf16>(m * width)? };
    let function = device.get_or_load_custom_func("rope", "qlora_rope", ROPE)?;
    let (x, positions) = (x.slice::<bf16>()?, positions.slice::<u32>()?);
    let (cos, sin) = (cos.slice::<f32>()?, sin.slice::<f32>()?);
    let (pairs, elements, head) = ((m * width / 2) as i64, width as i32, head as i32);
    let mut launch = function.builder();
    launch.arg(&x).arg(&positions).arg(&cos).arg(&sin).arg(&pairs).arg(&elements).arg(&head).arg(&sign).arg(&mut y);
    // SAFETY: arguments are those of the kernel; a position beyond the tables is refused where a batch is made.
    unsafe { launch.launch(spread(m * width / 2)) }.w()?;
    drop(launch);
    finish(y, device, (m, width))
}
