//! Operations whose elements or rows stand for themselves: norms, activations, rotation, rows.

use candle_core::{DType, Device, Tensor};
use qlora_kernels::{GateFunction, NormWeight, Result, RopeAngles, RopeTable, Span};

use crate::fixture::{close, elements, gpu, on, random, reference, values};

#[test]
fn norms_agree() -> Result<()> {
    let (gpu, cpu) = (gpu(), reference());
    let device = gpu.device();
    // Rows of fewer elements than a block keeps, at multiples of 16 bytes or not, and of more.
    for shape in [
        (1, 1),
        (3, 97),
        (5, 64),
        (17, 1000),
        (3, 4096),
        (2, 4099),
        (2, 16_384),
        (2, 17_000),
    ] {
        let (x, dy, base) = (random(shape, 2)?, random(shape, 3)?, random(shape, 4)?);
        let w = random((1, shape.1), 5)?.squeeze(0)?;
        let [gx, gdy, gbase, gw] = on(device, [&x, &dy, &base, &w]);
        for unit_offset in [false, true] {
            let [w, gw] = [&w, &gw].map(|weight| NormWeight {
                weight,
                unit_offset,
            });
            let (y, rstd) = gpu.rms_norm_forward(&gx, gw, 1e-5)?;
            let (wanted, wanted_rstd) = cpu.rms_norm_forward(&x, w, 1e-5)?;
            close(&y, &wanted, 1.0);
            close(&rstd, &wanted_rstd, 0.1);
            let pulled = cpu.rms_norm_backward(&dy, &x, w, &wanted_rstd, None)?;
            let onto = gpu.rms_norm_backward(&gdy, &gx, gw, &rstd, Some(&gbase))?;
            close(&onto, &(&pulled + &base)?, 2.0);
            let alone = gpu.rms_norm_backward(&gdy, &gx, gw, &rstd, None)?;
            close(&alone, &pulled, 2.0);
        }
    }
    Ok(())
}

/// What an offset is added to is never rounded: weights far below 1 count, as they would not beside
/// 1 in bf16.
#[test]
fn a_norm_with_an_offset_rounds_once() -> Result<()> {
    let gpu = gpu();
    let (x, w) = (
        random((3, 64), 2)?,
        Tensor::full(1e-3f32, 64, &Device::Cpu)?,
    );
    let w = w.to_dtype(DType::BF16)?;
    let [gx, gw] = on(gpu.device(), [&x, &w]);
    let norm = NormWeight {
        weight: &gw,
        unit_offset: true,
    };
    let (y, rstd) = gpu.rms_norm_forward(&gx, norm, 1e-5)?;
    let factor = 1.0 + f64::from(half::bf16::from_f32(1e-3).to_f32());
    let wanted = (x
        .to_dtype(DType::F32)?
        .broadcast_mul(&rstd.to_device(&Device::Cpu)?)?
        * factor)?;
    let found = elements(&y);
    let rounded = |v: f32| half::bf16::from_f32(v).to_f32();
    let differ = elements(&wanted)
        .iter()
        .zip(&found)
        .filter(|(wanted, found)| rounded(**wanted) != **found)
        .count();
    assert!(
        differ <= 2,
        "{differ} of {} are rounded otherwise",
        found.len()
    );
    Ok(())
}

#[test]
fn gated_activations_agree() -> Result<()> {
    let (gpu, cpu) = (gpu(), reference());
    let device = gpu.device();
    let shape = (31, 143);
    let (g, up, dh) = (random(shape, 6)?, random(shape, 7)?, random(shape, 8)?);
    for gate in [GateFunction::Silu, GateFunction::GeluTanh] {
        let [gg, gup, gdh] = on(device, [&g, &up, &dh]);
        let found = gpu.glu_forward(gate, &(&gg).into(), &(&gup).into())?;
        let wanted = cpu.glu_forward(gate, &(&g).into(), &(&up).into())?;
        close(found.tensor()?, wanted.tensor()?, 2.0);
        let (dg, dup) = gpu.glu_backward(gate, &(&gdh).into(), &(&gg).into(), &(&gup).into())?;
        let (over_dg, over_dup) =
            gpu.glu_backward_over(gate, gdh.into(), &(&gg).into(), &(&gup).into())?;
        close(over_dg.tensor()?, dg.tensor()?, 0.0);
        close(over_dup.tensor()?, dup.tensor()?, 0.0);
        let (wanted_dg, wanted_dup) =
            cpu.glu_backward(gate, &(&dh).into(), &(&g).into(), &(&up).into())?;
        close(dg.tensor()?, wanted_dg.tensor()?, 2.0);
        close(dup.tensor()?, wanted_dup.tensor()?, 2.0);
    }
    Ok(())
}

/// Gates far from zero: nothing becomes infinite or no number.
#[test]
fn gates_saturate() -> Result<()> {
    let gpu = gpu();
    let far = [-3e4f32, -100.0, -20.0, 20.0, 100.0, 3e4];
    for gate in [GateFunction::Silu, GateFunction::GeluTanh] {
        let one = Tensor::ones((1, 6), DType::BF16, &Device::Cpu)?;
        let g = Tensor::new(&[far], &Device::Cpu)?.to_dtype(DType::BF16)?;
        let [gg, gone] = on(gpu.device(), [&g, &one]);
        let (gg, gone) = ((&gg).into(), (&gone).into());
        let kept = elements(&g).iter().map(|v| v.max(0.0)).collect::<Vec<_>>();
        let close = |found: &Tensor, wanted: &[f32]| {
            let off = elements(found)
                .iter()
                .zip(wanted)
                .any(|(a, b)| (a - b).abs() > 1e-6);
            assert!(!off, "{gate:?}: {found}");
        };
        close(gpu.glu_forward(gate, &gg, &gone)?.tensor()?, &kept);
        let (dg, dup) = gpu.glu_backward(gate, &gone, &gg, &gone)?;
        close(dg.tensor()?, &[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
        close(dup.tensor()?, &kept);
    }
    Ok(())
}

#[test]
fn rotary_embedding_agrees() -> Result<()> {
    let (gpu, cpu) = (gpu(), reference());
    let device = gpu.device();
    let spans = [Span { q: 0..2, k: 0..2 }, Span { q: 2..5, k: 2..66 }];
    let (rows, here_rows) = (gpu.sequences(&spans)?, cpu.sequences(&spans)?);
    assert_eq!(rows.positions(), [0, 1, 61, 62, 63]);
    // Heads of 8 are turned pair by pair, heads of 48 eight pairs at a time; of the others a part
    // stays, in whole eights or not.
    for (head_dim, pairs) in [(8, 4), (48, 24), (64, 8), (96, 36), (20, 8)] {
        let angles = RopeAngles {
            inv_freq: (0..pairs).map(|i| 0.8f32.powi(i)).collect(),
            head_dim,
            factor: 1.25,
        };
        let table = |device: &Device| RopeTable::new(&angles, 64, device);
        let (here, there) = (table(&Device::Cpu)?, table(device)?);
        let x = random((5, 3 * head_dim), 15)?;
        let [gx] = on(device, [&x]);
        close(
            &gpu.rope_forward(&there, &gx, &rows)?,
            &cpu.rope_forward(&here, &x, &here_rows)?,
            1.0,
        );
        close(
            &gpu.rope_backward(&there, &gx, &rows)?,
            &cpu.rope_backward(&here, &x, &here_rows)?,
            1.0,
        );
    }
    Ok(())
}

#[test]
fn rows_are_scaled_and_shifted() -> Result<()> {
    let (gpu, cpu) = (gpu(), reference());
    for shape in [(3, 7), (2, 64), (2, 17_000)] {
        let (x, bias) = (random(shape, 1)?, random((1, shape.1), 2)?.squeeze(0)?);
        let [gx, gbias] = on(gpu.device(), [&x, &bias]);
        for scale in [1.0, 0.7] {
            let found = gpu.affine(&gx, scale, Some(&gbias))?;
            close(&found, &cpu.affine(&x, scale, Some(&bias))?, 1.0);
            close(
                &gpu.affine(&gx, scale, None)?,
                &cpu.affine(&x, scale, None)?,
                1.0,
            );
        }
        let other = random((1, shape.1 + 1), 2)?.squeeze(0)?;
        let [other] = on(gpu.device(), [&other]);
        assert!(gpu.affine(&gx, 1.0, Some(&other)).is_err());
    }
    Ok(())
}

#[test]
fn rows_go_where_they_should() -> Result<()> {
    let gpu = gpu();
    let device = gpu.device();
    for d in [7, 64, 1032, 17_000] {
        let table = random((19, d), 21)?;
        let ids = Tensor::new(&[3u32, 18, 0], &Device::Cpu)?;
        let [gtable, gids] = on(device, [&table, &ids]);
        let picked = gpu.gather_rows(&gtable, &gids)?;
        close(&picked, &table.index_select(&ids, 0)?, 0.0);
        let wanted = Tensor::zeros((19, d), DType::BF16, &Device::Cpu)?.index_add(
            &ids,
            &table.index_select(&ids, 0)?,
            0,
        )?;
        close(&gpu.scatter_rows(&picked, &gids, 19)?, &wanted, 0.0);
        close(
            &gpu.append_rows(&picked, &gtable)?,
            &Tensor::cat(&[&table.index_select(&ids, 0)?, &table], 0)?,
            0.0,
        );
    }
    for n in [77, 4096] {
        let here = Tensor::from_vec(values(n, 22), n, &Device::Cpu)?;
        let [there] = on(device, [&here]);
        close(
            &gpu.cast(&there, DType::BF16)?,
            &here.to_dtype(DType::BF16)?,
            0.0,
        );
        close(&gpu.add(&there, &there)?, &(&here * 2.0)?, 0.0);
        // One that begins at no multiple of 16 bytes.
        let (there, here) = (there.narrow(0, 1, n - 3)?, here.narrow(0, 1, n - 3)?);
        close(&gpu.add(&there, &there)?, &(here * 2.0)?, 0.0);
    }
    Ok(())
}

#[test]
fn tensors_are_joined() -> Result<()> {
    let (gpu, cpu) = (gpu(), reference());
    let device = gpu.device();
    let parts = [
        Tensor::from_vec(values(7, 1), 7, device)?,
        Tensor::from_vec(values(6, 2), (2, 3), device)?,
    ];
    let joined = gpu.concat(&[&parts[0], &parts[1]])?;
    assert_eq!(elements(&joined), [values(7, 1), values(6, 2)].concat());
    let here: Vec<Tensor> = parts
        .iter()
        .map(|p| p.to_device(&Device::Cpu))
        .collect::<Result<_>>()?;
    assert_eq!(
        elements(&cpu.concat(&[&here[0], &here[1]])?),
        elements(&joined)
    );
    Ok(())
}
