//! The launch of the optimizer for tensors whose moments are 8-bit codes.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    DevicePtr, DevicePtrMut, LaunchConfig, PushKernelArg,
};
use candle_core::{CudaDevice, Tensor};

use super::adamw_tables::{self as tables, Address, Codes, address};
use super::buffer::{Input, device_of, finish};
use super::gpu::{self, Gpu};
use super::launch::THREADS;
use crate::Result;
use crate::host::dynamic8::BLOCK;
use crate::types::adamw::{Coded, Moments, Parameter};

/// See [`crate::backend::Backend::adamw`]; all moments are codes.
pub(super) fn update(
    parameters: &[&Parameter<'_>],
    norm: &Tensor,
    max_norm: f64,
) -> Result<Vec<(Tensor, Moments)>> {
    if parameters.is_empty() {
        return Ok(Vec::new());
    }
    let device = device_of(norm)?;
    let (opened, stream) = (Gpu::of(&device)?, device.cuda_stream());
    let (mut rows, mut made, mut blocks) = (Vec::new(), Vec::new(), 0);
    for p in parameters {
        let Moments::Coded { first, second } = p.moments else {
            candle_core::bail!("moments in full")
        };
        let (n, scales) = (p.value.elem_count(), p.value.elem_count().div_ceil(BLOCK));
        let sizes = [
            (p.gradient, n),
            (&first.codes, n),
            (&second.codes, n),
            (&first.scales, scales),
            (&second.scales, scales),
        ];
        if sizes
            .iter()
            .any(|(tensor, size)| tensor.elem_count() != *size)
        {
            candle_core::bail!("a gradient or a moment is not of its parameter's size, {n}")
        }
        // SAFETY: the kernel writes every element of them.
        let (mut value, mut codes, mut scale) = unsafe {
            let codes = [device.alloc::<u8>(n)?, device.alloc::<u8>(n)?];
            (
                device.alloc::<f32>(n)?,
                codes,
                [device.alloc::<f32>(scales)?, device.alloc::<f32>(scales)?],
            )
        };
        let [new_first, new_second] = codes
            .each_mut()
            .map(|slice| slice.device_ptr_mut(&stream).0);
        let [new_first_scales, new_second_scales] = scale
            .each_mut()
            .map(|slice| slice.device_ptr_mut(&stream).0);
        let [new_first, new_second] = [
            (new_first, new_first_scales),
            (new_second, new_second_scales),
        ]
        .map(|(codes, scales)| Codes { codes, scales });
        rows.push(tables::Coded {
            gradient: address(p.gradient, &device)?,
            value: address(p.value, &device)?,
            first: addresses(first, &device)?,
            second: addresses(second, &device)?,
            new_value: value.device_ptr_mut(&stream).0,
            new_first,
            new_second,
            elements: n as u64,
            rule: p.rule.constants(),
        });
        made.push((value, codes, scale, p.value.shape()));
        blocks = blocks.max(scales);
    }
    let table = device.clone_htod(&rows)?;
    let function = gpu::function(&device, "adamw", "adamw_coded")?;
    let maps = (
        Input::of(&opened.dynamic_map)?,
        Input::of(&opened.unsigned_map)?,
    );
    let codes = (Input::of(&opened.codes[0])?, Input::of(&opened.codes[1])?);
    let (maps, codes) = (
        (maps.0.slice::<f32>()?, maps.1.slice::<f32>()?),
        (codes.0.slice::<u8>()?, codes.1.slice::<u8>()?),
    );
    let (norm, max_norm) = (Input::of(norm)?, max_norm as f32);
    let norm = norm.slice::<f32>()?;
    let mut launch = function.builder();
    launch
        .arg(&table)
        .arg(&maps.0)
        .arg(&maps.1)
        .arg(&codes.0)
        .arg(&codes.1)
        .arg(&norm)
        .arg(&max_norm);
    let warps = THREADS / 32;
    let grid = LaunchConfig {
        grid_dim: ((blocks as u32).div_ceil(warps), parameters.len() as u32, 1),
        block_dim: (THREADS, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: arguments are those of the kernel; a row of blocks goes over one tensor of the table,
    // a warp over the elements of one scale.
    unsafe { launch.launch(grid) }.w()?;
    drop(launch);
    made.into_iter()
        .map(|(value, codes, scales, shape)| {
            let [first, second] = codes
                .map(|codes| (codes.len(), codes))
                .map(|(n, codes)| finish(codes, device.clone(), n));
            let [first_scales, second_scales] = scales
                .map(|scales| (scales.len(), scales))
                .map(|(n, scales)| finish(scales, device.clone(), n));
            let moments = Moments::Coded {
                first: Coded {
                    codes: first?,
                    scales: first_scales?,
                },
                second: Coded {
                    codes: second?,
                    scales: second_scales?,
                },
            };
            Ok((finish(value, device.clone(), shape)?, moments))
        })
        .collect()
}

/// Where `moments` lie.
fn addresses(moments: &Coded, device: &CudaDevice) -> Result<Codes> {
    Ok(Codes {
        codes: code_address(&moments.codes, device)?,
        scales: address(&moments.scales, device)?,
    })
}

fn code_address(codes: &Tensor, device: &CudaDevice) -> Result<Address> {
    Ok(Input::of(codes)?
        .slice::<u8>()?
        .device_ptr(&device.cuda_stream())
        .0)
}
