//! Launches that dequantize NF4 to bf16, and that quantize to NF4.

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, PushKernelArg};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::{CudaDevice, DType, Tensor};
use half::bf16;

use super::buffer::{Input, device_of, finish};
use super::gpu::{self, Gpu};
use super::launch::spread;
use crate::Result;
use crate::types::nf4::{Nf4Scales, Nf4Tensor};

/// Elements that a thread writes.
pub(super) const NF4_RUN: usize = 32;

/// The matrix in bf16, bit for bit as the reference form has it.
pub(super) fn dequantize(matrix: &Nf4Tensor) -> Result<Tensor> {
    let device = device_of(matrix.packed())?;
    to_bf16(matrix, room(matrix, &device)?, &device.cuda_stream())
}

/// Memory for the matrix in bf16.
pub(super) fn room(matrix: &Nf4Tensor, device: &CudaDevice) -> Result<CudaSlice<bf16>> {
    let (rows, cols) = matrix.dims();
    // SAFETY: who writes the matrix out writes every element.
    unsafe { device.alloc::<bf16>(rows * cols) }
}

/// [`dequantize`] on a stream.
pub(super) fn to_bf16(
    matrix: &Nf4Tensor,
    mut out: CudaSlice<bf16>,
    stream: &Arc<CudaStream>,
) -> Result<Tensor> {
    let device = device_of(matrix.packed())?;
    let opened = Gpu::of(&device)?;
    let (shape, elements) = (matrix.dims(), matrix.dims().0 * matrix.dims().1);
    if !matrix.block().is_multiple_of(NF4_RUN) {
        candle_core::bail!(
            "blocks of {} elements are not multiples of {NF4_RUN}",
            matrix.block()
        )
    }
    let packed = Input::of(matrix.packed())?;
    let (codes, scales, offset) = match matrix.scales() {
        Nf4Scales::Plain(absmax) => (None, absmax, 0.0),
        Nf4Scales::Nested {
            codes,
            absmax,
            offset,
        } => (Some(codes), absmax, *offset),
    };
    let (codes, scales, map) = (
        codes.map(Input::of).transpose()?,
        Input::of(scales)?,
        Input::of(&opened.dynamic_map)?,
    );
    let function = gpu::function(&device, "nf4", "nf4_to_bf16")?.into_cuda_function();
    let (packed, scales, map) = (
        packed.slice::<u8>()?,
        scales.slice::<f32>()?,
        map.slice::<f32>()?,
    );
    let codes = codes.as_ref().map(Input::slice::<u8>).transpose()?;
    let (length, block, none) = (elements as i64, matrix.block() as i32, 0u64);
    let mut launch = stream.launch_builder(&function);
    launch.arg(&packed);
    match &codes {
        Some(codes) => launch.arg(codes),
        None => launch.arg(&none),
    };
    launch
        .arg(&scales)
        .arg(&map)
        .arg(&offset)
        .arg(&length)
        .arg(&block)
        .arg(&mut out);
    // SAFETY: arguments are those of the kernel, and sizes were checked when the matrix was made.
    unsafe { launch.launch(spread(elements.div_ceil(NF4_RUN))) }.w()?;
    drop(launch);
    finish(out, device, shape)
}

/// Two codes a byte and the largest magnitude of each block, of a matrix in bf16 or `f32`, bit for
/// bit as [`crate::host::nf4::quantize`] has them.
pub(super) fn quantize(matrix: &Tensor, block: usize) -> Result<(Tensor, Tensor)> {
    match matrix.dtype() {
        DType::BF16 => quantize_as::<bf16>("nf4_quantize_bf16", matrix, block),
        DType::F32 => quantize_as::<f32>("nf4_quantize_f32", matrix, block),
        other => candle_core::bail!("{other:?} is not quantized on a GPU"),
    }
}

fn quantize_as<T: CudaDType + DeviceRepr>(
    kernel: &str,
    matrix: &Tensor,
    block: usize,
) -> Result<(Tensor, Tensor)> {
    let (device, elements) = (device_of(matrix)?, matrix.elem_count());
    let (bytes, blocks) = (elements.div_ceil(2), elements.div_ceil(block));
    let lanes = block.div_ceil(8).next_power_of_two().min(32);
    let input = Input::of(matrix)?;
    // SAFETY: the kernel writes every element of both.
    let (mut packed, mut absmax) =
        unsafe { (device.alloc::<u8>(bytes)?, device.alloc::<f32>(blocks)?) };
    let function = gpu::function(&device, "nf4", kernel)?;
    let (weights, length, size) = (input.slice::<T>()?, elements as i64, block as i32);
    let mut launch = function.builder();
    launch
        .arg(&weights)
        .arg(&length)
        .arg(&size)
        .arg(&mut packed)
        .arg(&mut absmax);
    // SAFETY: arguments are those of the kernel, which has so many lanes for each of `blocks`.
    unsafe { launch.launch(spread(blocks * lanes)) }.w()?;
    drop(launch);
    Ok((
        finish(packed, device.clone(), bytes)?,
        finish(absmax, device, blocks)?,
    ))
}
