//! Launches of the optimizer: one for all tensors, with a table that says where each lies.

use candle_core::Tensor;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{DevicePtrMut, LaunchConfig, PushKernelArg};

use super::adamw_tables::{Full, Gradient, address};
use super::buffer::{Input, device_of, finish};
use super::launch::{THREADS, a_block_each};
use super::{adamw8, gpu};
use crate::Result;
use crate::types::adamw::{Moments, Parameter};

/// Blocks that go over one tensor.
const BLOCKS: u32 = 32;

/// The L2 norm over all tensors, [1].
pub(crate) fn norm(tensors: &[&Tensor]) -> Result<Tensor> {
    let device = device_of(tensors[0])?;
    let row = |t: &&Tensor| {
        Ok(Gradient {
            values: address(t, &device)?,
            elements: t.elem_count() as u64,
        })
    };
    let rows = tensors.iter().map(row).collect::<Result<Vec<_>>>()?;
    let table = device.clone_htod(&rows)?;
    // SAFETY: the kernels write every element of both.
    let (mut parts, mut norm) =
        unsafe { (device.alloc::<f32>(tensors.len())?, device.alloc::<f32>(1)?) };
    let squares = gpu::function(&device, "adamw", "squares")?;
    let mut launch = squares.builder();
    launch.arg(&table).arg(&mut parts);
    // SAFETY: arguments are those of the kernel; a block goes over one tensor of the table.
    unsafe { launch.launch(a_block_each(tensors.len())) }.w()?;
    drop(launch);
    let root = gpu::function(&device, "adamw", "root_of_sum")?;
    let count = tensors.len() as i32;
    let mut launch = root.builder();
    launch.arg(&parts).arg(&count).arg(&mut norm);
    // SAFETY: arguments are those of the kernel, which is one block.
    unsafe { launch.launch(a_block_each(1)) }.w()?;
    drop(launch);
    finish(norm, device, 1)
}

/// See [`crate::backend::Backend::adamw`].
pub(crate) fn update(
    parameters: &[Parameter<'_>],
    norm: &Tensor,
    max_norm: f64,
) -> Result<Vec<(Tensor, Moments)>> {
    let is_coded = |p: &&Parameter<'_>| matches!(p.moments, Moments::Coded { .. });
    let (coded, full): (Vec<_>, Vec<_>) = parameters.iter().partition(is_coded);
    let mut coded = adamw8::update(&coded, norm, max_norm)?.into_iter();
    let mut full = update_full(&full, norm, max_norm)?.into_iter();
    let next = |p| {
        if is_coded(&p) {
            coded.next()
        } else {
            full.next()
        }
    };
    let updated: Option<Vec<_>> = parameters.iter().map(next).collect();
    updated
        .ok_or_else(|| candle_core::Error::Msg("an update of fewer tensors than there are".into()))
}

fn update_full(
    parameters: &[&Parameter<'_>],
    norm: &Tensor,
    max_norm: f64,
) -> Result<Vec<(Tensor, Moments)>> {
    if parameters.is_empty() {
        return Ok(Vec::new());
    }
    let device = device_of(norm)?;
    let stream = device.cuda_stream();
    let (mut rows, mut made) = (Vec::new(), Vec::new());
    for p in parameters {
        let Moments::Full { first, second } = p.moments else {
            candle_core::bail!("moments in 8 bits")
        };
        let n = p.value.elem_count();
        if [p.gradient, first, second]
            .iter()
            .any(|t| t.elem_count() != n)
        {
            candle_core::bail!("a gradient or a moment is not of its parameter's size, {n}")
        }
        // SAFETY: the kernel writes every element of the three.
        let mut new = unsafe {
            [
                device.alloc::<f32>(n)?,
                device.alloc::<f32>(n)?,
                device.alloc::<f32>(n)?,
            ]
        };
        let [new_value, new_first, new_second] =
            new.each_mut().map(|slice| slice.device_ptr_mut(&stream).0);
        rows.push(Full {
            gradient: address(p.gradient, &device)?,
            value: address(p.value, &device)?,
            first: address(first, &device)?,
            second: address(second, &device)?,
            new_value,
            new_first,
            new_second,
            elements: n as u64,
            rule: p.rule.constants(),
        });
        made.push((new, p.value.shape()));
    }
    let table = device.clone_htod(&rows)?;
    let function = gpu::function(&device, "adamw", "adamw")?;
    let (norm, max_norm) = (Input::of(norm)?, max_norm as f32);
    let norm = norm.slice::<f32>()?;
    let mut launch = function.builder();
    launch.arg(&table).arg(&norm).arg(&max_norm);
    let grid = LaunchConfig {
        grid_dim: (BLOCKS, parameters.len() as u32, 1),
        block_dim: (THREADS, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: arguments are those of the kernel; a row of blocks goes over one tensor of the table.
    unsafe { launch.launch(grid) }.w()?;
    drop(launch);
    made.into_iter()
        .map(|(new, shape)| {
            let [value, first, second] = new.map(|slice| finish(slice, device.clone(), shape));
            Ok((
                value?,
                Moments::Full {
                    first: first?,
                    second: second?,
                },
            ))
        })
        .collect()
}
