//! Launches that move, scale and shift rows, and that change element types.

use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, PushKernelArg};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::{DType, Tensor};
use half::bf16;

use super::buffer::{Input, device_of, finish};
use super::gpu;
use super::launch::{a_block_a_row, spread};
use crate::Result;

/// The rows `ids` [L] of `table` [V, D]; every id is below V.
pub(super) fn gather(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let device = device_of(table)?;
    let (rows, d) = (ids.dim(0)?, table.dim(1)?);
    let (table, ids) = (Input::of(table)?, Input::of(ids)?);
    // SAFETY: the kernel writes every element.
    let mut out = unsafe { device.alloc::<bf16>(rows * d)? };
    let function = gpu::function(&device, "rows", "gather_rows")?;
    let (table, ids, width) = (table.slice::<bf16>()?, ids.slice::<u32>()?, d as i32);
    let mut launch = function.builder();
    launch.arg(&table).arg(&ids).arg(&width).arg(&mut out);
    // SAFETY: arguments are those of the kernel; a block copies one row.
    unsafe { launch.launch(a_block_a_row(rows, d)) }.w()?;
    drop(launch);
    finish(out, device, (rows, d))
}

/// A matrix of `m` rows, zero but for its rows `ids` [L], which are those of `rows` [L, D]; no id
/// comes twice.
pub(super) fn scatter(rows: &Tensor, ids: &Tensor, m: usize) -> Result<Tensor> {
    let device = device_of(rows)?;
    let (l, d) = rows.dims2()?;
    let (rows, ids) = (Input::of(rows)?, Input::of(ids)?);
    let mut out = device.alloc_zeros::<bf16>(m * d)?;
    let function = gpu::function(&device, "rows", "scatter_rows")?;
    let (rows, ids, width) = (rows.slice::<bf16>()?, ids.slice::<u32>()?, d as i32);
    let mut launch = function.builder();
    launch.arg(&rows).arg(&ids).arg(&width).arg(&mut out);
    // SAFETY: arguments are those of the kernel; a block copies one row.
    unsafe { launch.launch(a_block_a_row(l, d)) }.w()?;
    drop(launch);
    finish(out, device, (m, d))
}

/// The rows of `a` [M, D] and then those of `b` [N, D].
pub(super) fn append(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let device = device_of(a)?;
    let ((m, d), (n, width)) = (a.dims2()?, b.dims2()?);
    if width != d {
        candle_core::bail!("rows of {d} and of {width} elements")
    }
    let (a, b) = (Input::of(a)?, Input::of(b)?);
    // SAFETY: both parts are written.
    let mut out = unsafe { device.alloc::<bf16>((m + n) * d)? };
    device.memcpy_dtod(&a.slice::<bf16>()?, &mut out.slice_mut(..m * d))?;
    device.memcpy_dtod(&b.slice::<bf16>()?, &mut out.slice_mut(m * d..))?;
    finish(out, device, (m + n, d))
}

/// `scale` * `x` [M, D] + `bias` [D].
pub(super) fn affine(x: &Tensor, scale: f64, bias: Option<&Tensor>) -> Result<Tensor> {
    let device = device_of(x)?;
    let (m, d) = x.dims2()?;
    if let Some(bias) = bias.filter(|bias| bias.dims() != [d]) {
        candle_core::bail!("a bias of {:?} for rows of {d} elements", bias.dims())
    }
    let (x, bias) = (Input::of(x)?, bias.map(Input::of).transpose()?);
    // SAFETY: the kernel writes every element.
    let mut y = unsafe { device.alloc::<bf16>(m * d)? };
    let function = gpu::function(&device, "rows", "affine")?;
    let x = x.slice::<bf16>()?;
    let bias = bias.as_ref().map(Input::slice::<bf16>).transpose()?;
    let (width, scale, none) = (d as i32, scale as f32, 0u64);
    let mut launch = function.builder();
    launch.arg(&x);
    match &bias {
        Some(bias) => launch.arg(bias),
        None => launch.arg(&none),
    };
    launch.arg(&width).arg(&scale).arg(&mut y);
    // SAFETY: arguments are those of the kernel; a block goes over one of the `m` rows of `d`
    // elements.
    unsafe { launch.launch(a_block_a_row(m, d)) }.w()?;
    drop(launch);
    finish(y, device, (m, d))
}

/// Columns that joined matrices have a multiple of, as cuBLASLt's fast kernels want it.
const WHOLE: usize = 8;

/// The columns of `a` [M, K] in bf16, then those of `b` [M, R], in bf16 or `f32`, times `scale`,
/// and zeros up to a multiple of 8.
pub(super) fn join_columns(a: &Tensor, b: &Tensor, scale: f32) -> Result<Tensor> {
    match b.dtype() {
        DType::F32 => join_columns_as::<f32>("join_columns_f32", a, b, scale),
        _ => join_columns_as::<bf16>("join_columns_bf16", a, b, scale),
    }
}

fn join_columns_as<T: CudaDType + DeviceRepr>(
    kernel: &str,
    a: &Tensor,
    b: &Tensor,
    scale: f32,
) -> Result<Tensor> {
    let device = device_of(a)?;
    let ((m, k), (n, r)) = (a.dims2()?, b.dims2()?);
    if m != n {
        candle_core::bail!("columns of {m} and of {n} elements")
    }
    let (a, b) = (Input::of(a)?, Input::of(b)?);
    let total = (k + r).next_multiple_of(WHOLE);
    // SAFETY: the kernel writes every element.
    let mut out = unsafe { device.alloc::<bf16>(m * total)? };
    let function = gpu::function(&device, "rows", kernel)?;
    let (a, b, width, more, all) = (
        a.slice::<bf16>()?,
        b.slice::<T>()?,
        k as i32,
        r as i32,
        total as i32,
    );
    let mut launch = function.builder();
    launch
        .arg(&a)
        .arg(&width)
        .arg(&b)
        .arg(&more)
        .arg(&scale)
        .arg(&all)
        .arg(&mut out);
    // SAFETY: arguments are those of the kernel; a block joins one row.
    unsafe { launch.launch(a_block_a_row(m, k)) }.w()?;
    drop(launch);
    finish(out, device, (m, total))
}

/// `f32` rounded to bf16; what is bf16 stays.
pub(super) fn to_bf16(x: &Tensor) -> Result<Tensor> {
    if x.dtype() == DType::BF16 {
        return Ok(x.clone());
    }
    let (device, n, shape) = (device_of(x)?, x.elem_count(), x.shape());
    let input = Input::of(x)?;
    // SAFETY: the kernel writes every element.
    let mut out = unsafe { device.alloc::<bf16>(n)? };
    let function = gpu::function(&device, "rows", "to_bf16")?;
    let (input, length) = (input.slice::<f32>()?, n as i64);
    let mut launch = function.builder();
    launch.arg(&input).arg(&length).arg(&mut out);
    // SAFETY: arguments are those of the kernel, whose threads have eight elements.
    unsafe { launch.launch(spread(n.div_ceil(8))) }.w()?;
    drop(launch);
    finish(out, device, shape)
}

/// All elements of `tensors`, in `f32`, one after another, and zeros up to `length`.
pub(super) fn join(tensors: &[&Tensor], length: usize) -> Result<Tensor> {
    let Some(first) = tensors.first() else {
        candle_core::bail!("there are no tensors to join")
    };
    let device = device_of(first)?;
    let n: usize = tensors.iter().map(|t| t.elem_count()).sum();
    let mut out = device.alloc_zeros::<f32>(length.max(n))?;
    let mut start = 0;
    for tensor in tensors {
        let input = Input::of(tensor)?;
        let end = start + tensor.elem_count();
        device.memcpy_dtod(&input.slice::<f32>()?, &mut out.slice_mut(start..end))?;
        start = end;
    }
    finish(out, device, length.max(n))
}

/// The sum of two tensors of one shape and type, `f32` or bf16.
pub(super) fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    match a.dtype() {
        DType::F32 => add_as::<f32>("add_f32", a, b),
        _ => add_as::<bf16>("add_bf16", a, b),
    }
}

fn add_as<T: CudaDType + DeviceRepr>(kernel: &str, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (device, n, shape) = (device_of(a)?, a.elem_count(), a.shape());
    if b.shape() != shape {
        candle_core::bail!("a sum of {shape:?} and {:?}", b.shape())
    }
    let (a, b) = (Input::of(a)?, Input::of(b)?);
    // SAFETY: the kernel writes every element.
    let mut sum = unsafe { device.alloc::<T>(n)? };
    let function = gpu::function(&device, "rows", kernel)?;
    let (a, b, length) = (a.slice::<T>()?, b.slice::<T>()?, n as i64);
    let mut launch = function.builder();
    launch.arg(&a).arg(&b).arg(&length).arg(&mut sum);
    // SAFETY: arguments are those of the kernel, whose threads have eight elements; both tensors
    // are of one size.
    unsafe { launch.launch(spread(n.div_ceil(8))) }.w()?;
    drop(launch);
    finish(sum, device, shape)
}
