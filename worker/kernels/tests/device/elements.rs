//! Operations whose elements or rows stand for themselves: norms, activations, rotation, rows.

use candle_core::{DType, Device, Tensor};
use qlora_kernels::{GateFunction, Result, RopeTable, Span};

use crate::fixture::{close, gpu, numbers, on, random, reference, values};

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
        let (y, rstd) = gpu.rms_norm_forward(&gx, (&gw).into(), 1e-5)?;
        let (wanted, wanted_rstd) = cpu.rms_norm_forward(&x, (&w).into(), 1e-5)?;
        close(&y, &wanted, 1.0);
        close(&rstd, &wanted_rstd, 0.1);
        let pulled = cpu.rms_norm_backward(&dy, &x, (&w).into(), &wanted_rstd, None)?;
        close(
            &gpu.rms_norm_backward(&gdy, &gx, (&gw).into(), &rstd, Some(&gbase))?,
            &(&pulled + &base)?,
            2.0,
        );
        close(
            &gpu.rms_norm_backward(&gdy, &gx, (&gw).into(), &rstd, None)?,
            &pulled,
            2.0,
        );
    }
    Ok(())
}

#[test]
fn the_gated_activation_agrees() -> Result<()> {
    let (gpu, cpu) = (gpu(), reference());
    let device = gpu.device();
    let shape = (31, 143);
    let (g, e, dh) = (random(shape, 6)?, random(shape, 7)?, random(shape, 8)?);
    let [gg, ge, gdh] = on(device, [&g, &e, &dh]);
    close(
        gpu.glu_forward(GateFunction::Silu, &(&gg).into(), &(&ge).into())?
            .tensor()?,
        cpu.glu_forward(GateFunction::Silu, &(&g).into(), &(&e).into())?
            .tensor()?,
        2.0,
    );
    let (dg, de) = gpu.glu_backward(
        GateFunction::Silu,
        &(&gdh).into(),
        &(&gg).into(),
        &(&ge).into(),
    )?;
    let (over_dg, over_de) =
        gpu.glu_backward_over(GateFunction::Silu, gdh.into(), &(&gg).into(), &(&ge).into())?;
    close(over_dg.tensor()?, dg.tensor()?, 0.0);
    close(over_de.tensor()?, de.tensor()?, 0.0);
    let (wanted_dg, wanted_de) = cpu.glu_backward(
        GateFunction::Silu,
        &(&dh).into(),
        &(&g).into(),
        &(&e).into(),
    )?;
    close(dg.tensor()?, wanted_dg.tensor()?, 2.0);
    close(de.tensor()?, wanted_de.tensor()?, 2.0);
    Ok(())
}

#[test]
fn rotary_embedding_agrees() -> Result<()> {
    let (gpu, cpu) = (gpu(), reference());
    let device = gpu.device();
    let spans = [Span { q: 0..2, k: 0..2 }, Span { q: 2..5, k: 2..66 }];
    let (rows, here_rows) = (gpu.sequences(&spans)?, cpu.sequences(&spans)?);
    assert_eq!(rows.positions(), [0, 1, 61, 62, 63]);
    // Heads of 8 are turned pair by pair, heads of 48 eight pairs at a time.
    for half in [4, 24] {
        let frequencies: Vec<f32> = (0..half).map(|i| 0.8f32.powi(i)).collect();
        let table = |device: &Device| RopeTable::new(&frequencies, 64, device);
        let (here, there) = (table(&Device::Cpu)?, table(device)?);
        let x = random((5, 3 * 2 * half as usize), 15)?;
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
        let numbers = Tensor::from_vec(values(n, 22), n, &Device::Cpu)?;
        let [there] = on(device, [&numbers]);
        close(
            &gpu.cast(&there, DType::BF16)?,
            &numbers.to_dtype(DType::BF16)?,
            0.0,
        );
        close(&gpu.add(&there, &there)?, &(&numbers * 2.0)?, 0.0);
        // One that begins at no multiple of 16 bytes.
        let (there, here) = (there.narrow(0, 1, n - 3)?, numbers.narrow(0, 1, n - 3)?);
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
    assert_eq!(numbers(&joined), [values(7, 1), values(6, 2)].concat());
    let here: Vec<Tensor> = parts
        .iter()
        .map(|p| p.to_device(&Device::Cpu))
        .collect::<Result<_>>()?;
    assert_eq!(
        numbers(&cpu.concat(&[&here[0], &here[1]])?),
        numbers(&joined)
    );
    Ok(())
}
