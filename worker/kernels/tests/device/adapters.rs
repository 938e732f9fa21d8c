//! Adapters that share their input, under dropout.

use candle_core::{DType, Device, Tensor};
use qlora_kernels::{Activations, DropoutKey, LoraBackwardInput, LoraInput, Result, backend};

use crate::fixture::{close, gpu, on, random};

#[test]
fn masks_are_those_of_the_cpu() -> Result<()> {
    let (x, base) = (random((9, 37), 13)?, random((9, 37), 14)?);
    let key = DropoutKey {
        seed: 0x1234_5678_9abc,
        step: 9,
        projection: 77,
        first_token: 3,
        probability: 0.3,
    };
    let (gpu, cpu) = (gpu(), backend::host());
    let [gx, gbase] = on(gpu.device(), [&x, &base]);
    let on_cpu = cpu.add_dropout(&x.to_dtype(DType::F32)?, &key, None)?;
    close(
        &gpu.add_dropout(&gx, &key, None)?,
        &on_cpu.to_dtype(DType::BF16)?,
        0.0,
    );
    let on_cpu = (on_cpu + base.to_dtype(DType::F32)?)?;
    close(&gpu.add_dropout(&gx, &key, Some(&gbase))?, &on_cpu, 1.0);
    Ok(())
}

/// Adapters that share an input: as many launches as their ranks need, more rows than one part of a
/// gradient has.
#[test]
fn adapters_agree_under_their_masks() -> Result<()> {
    let (gpu, cpu) = (gpu(), backend::reference(&Device::Cpu, DType::F32));
    let device = gpu.device();
    let wide = |t: &Tensor| t.to_dtype(DType::F32);
    for (m, width, rank, count) in [
        (1, 8, 2, 1),
        (37, 72, 16, 3),
        (70, 136, 20, 2),
        (33, 328, 40, 3),
        (1100, 40, 16, 1),
    ] {
        for probability in [Some(0.3), None] {
            let x = random((m, width), 30)?;
            let key = |projection: usize| {
                let projection = 7 + projection as u32;
                let (seed, step, first_token) = (0x1234_5678_9abc, 9, 3);
                probability.map(|probability| DropoutKey {
                    seed,
                    step,
                    projection,
                    first_token,
                    probability,
                })
            };
            let a = |i: usize| wide(&random((rank, width), 31 + i)?);
            let a = (0..count).map(a).collect::<Result<Vec<_>>>()?;
            let du = (0..count)
                .map(|i| random((m, rank), 41 + i))
                .collect::<Result<Vec<_>>>()?;
            let [gx] = on(device, [&x]);
            let ga = a
                .iter()
                .map(|a| a.to_device(device))
                .collect::<Result<Vec<_>>>()?;
            let gdu = du
                .iter()
                .map(|du| Ok(du.to_device(device)?.into()))
                .collect::<Result<Vec<Activations>>>()?;
            let here: Vec<_> = a
                .iter()
                .enumerate()
                .map(|(i, a)| LoraInput { a, mask: key(i) })
                .collect();
            let there: Vec<_> = ga
                .iter()
                .enumerate()
                .map(|(i, a)| LoraInput { a, mask: key(i) })
                .collect();
            let x = wide(&x)?.into();
            let found = gpu.lora_forward(&(&gx).into(), &there)?;
            for (found, wanted) in found.iter().zip(cpu.lora_forward(&x, &here)?) {
                close(found.tensor()?, wanted.tensor()?, 1.0);
            }
            let du = du
                .iter()
                .map(|du| Ok(wide(du)?.into()))
                .collect::<Result<Vec<Activations>>>()?;
            let inputs = |(&adapter, du)| LoraBackwardInput { adapter, du };
            let (here, there) = (
                here.iter().zip(&du).map(inputs),
                there.iter().zip(&gdu).map(inputs),
            );
            let (here, there): (Vec<_>, Vec<_>) = (here.collect(), there.collect());
            let (grads, through) = gpu.lora_backward(&(&gx).into(), &there)?;
            let (wanted_grads, wanted_through) = cpu.lora_backward(&x, &here)?;
            assert_eq!(
                (grads.len(), through.is_some()),
                (count, probability.is_some())
            );
            for (found, wanted) in grads.iter().zip(&wanted_grads) {
                assert_eq!(found.dtype(), DType::F32);
                close(found, wanted, 1e-3);
            }
            if let (Some(found), Some(wanted)) = (through, wanted_through) {
                close(&found, &wanted, 2.0);
            }
        }
    }
    Ok(())
}
