//! Launches that split a matrix by its columns, and that join one from columns.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView, PushKernelArg};
use candle_core::{CudaDevice, Tensor};
use half::bf16;

use super::buffer::{Input, device_of, finish};
use super::gpu;
use super::launch::a_block_a_row;
use crate::Result;

/// Columns of a matrix: the first, and how long its rows are.
#[derive(Clone, Copy)]
struct Place {
    start: usize,
    stride: usize,
}

/// Copies `width` columns of `rows` rows.
fn copy(
    device: &CudaDevice,
    (from, out_of): (&CudaView<'_, bf16>, Place),
    (to, into): (&mut CudaSlice<bf16>, Place),
    rows: usize,
    width: usize,
) -> Result<()> {
    if rows == 0 || width == 0 {
        return Ok(());
    }
    let function = gpu::function(device, "rows", "copy_columns")?;
    let from = from.slice(out_of.start..);
    let mut to = to.slice_mut(into.start..);
    let (from_stride, to_stride) = (out_of.stride as i64, into.stride as i64);
    let columns = width as i32;
    let mut launch = function.builder();
    launch
        .arg(&from)
        .arg(&from_stride)
        .arg(&columns)
        .arg(&mut to)
        .arg(&to_stride);
    // SAFETY: arguments are those of the kernel; a block copies a part of one row, which both
    // matrices have.
    unsafe { launch.launch(a_block_a_row(rows, width)) }.w()?;
    Ok(())
}

/// Columns of `x` [M, N] in parts of the given `widths`.
pub(super) fn split(x: &Tensor, widths: &[usize]) -> Result<Vec<Tensor>> {
    let (device, (m, n)) = (device_of(x)?, x.dims2()?);
    if widths.iter().sum::<usize>() != n {
        candle_core::bail!("parts of {widths:?} of {n} columns")
    }
    let input = Input::of(x)?;
    let from = input.slice::<bf16>()?;
    let mut start = 0;
    let part = |&width: &usize| {
        // SAFETY: the kernel writes every element.
        let mut out = unsafe { device.alloc::<bf16>(m * width)? };
        let (out_of, into) = (Place { start, stride: n }, whole(width));
        copy(&device, (&from, out_of), (&mut out, into), m, width)?;
        start += width;
        finish(out, device.clone(), (m, width))
    };
    widths.iter().map(part).collect()
}

/// Columns of all `parts` side by side.
pub(super) fn join(parts: &[&Tensor]) -> Result<Tensor> {
    let Some(first) = parts.first() else {
        candle_core::bail!("a matrix of no columns")
    };
    let (device, m) = (device_of(first)?, first.dim(0)?);
    let mut n = 0;
    for part in parts {
        let (rows, width) = part.dims2()?;
        if rows != m {
            candle_core::bail!("{rows} rows beside {m}")
        }
        n += width;
    }
    // SAFETY: the kernel writes every element.
    let mut out = unsafe { device.alloc::<bf16>(m * n)? };
    let mut start = 0;
    for part in parts {
        let (width, input) = (part.dim(1)?, Input::of(part)?);
        let (from, into) = (input.slice::<bf16>()?, Place { start, stride: n });
        copy(&device, (&from, whole(width)), (&mut out, into), m, width)?;
        start += width;
    }
    finish(out, device, (m, n))
}

fn whole(stride: usize) -> Place {
    Place { start: 0, stride }
}
