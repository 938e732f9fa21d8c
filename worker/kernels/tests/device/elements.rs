//! Operations whose elements or rows stand for themselves: norms, activations, rotation, rows.

use candle_core::{DType, Device, Tensor};
use qlora_kernels::ops::{rms_norm, rows, swiglu};
use qlora_kernels::{Result, RopeTable, Sequences, Span};

use crate::fixture::{close, gpu, numbers, on, random, values};

#[test]
fn norms_agree() -> Result<()> {
    let device = gpu();
    // Rows of fewer elements than a block keeps, at multiples of 16 bytes or not, and of more.
    for shape in [(1, 1), (3, 97), (5, 64), (17, 1000), (3, 4096), (2, 4099), (2, 16_384), (2, 17_000)] {
        let (x, dy, base) = (random(shape, 2)?, random(shape, 3)?, random(shape, 4)?);
        let w = random((1, shape.1), 5)?.squeeze(0)?;
        let [gx, gdy, gbase, gw] = on(&device, [&x, &dy, &base, &w]);
        let (y, rho) = rms_norm::forward(&gx, &gw, 1e-5)?;
        let (wanted, wanted_rho) = rms_norm::reference_forward(&x, &w, 1e-5)?;
        close(&y, &wanted, 1.0);
        close(&rho, &wanted_rho, 0.1);
        let pulled = rms_norm::reference_backward(&dy, &x, &w, &wanted_rho)?;
        close(&rms_norm::backward(&gdy, &gx, &gw, &rho, Some(&gbase))?, &(&pulled + &base)?, 2.0);
        close(&rms_norm::backward(&gdy, &gx, &gw, &rho, None)?, &pulled, 2.0);
    }
    Ok(())
}

#[test]
fn the_gated_activation_agrees() -> Result<()> {
    let device = gpu();
    let shape = (31, 143);
    let (g, e, dh) = (random(shape, 6)?, random(shape, 7)?, random(shape, 8)?);
    let [gg, ge, gdh] = on(&device, [&g, &e, &dh]);
    close(swiglu::forward(&(&gg).into(), &(&ge).into())?.tensor()?, &swiglu::reference_forward(&g, &e)?, 2.0);
    let (dg, de) = swiglu::backward(&(&gdh).into(), &(&gg).into(), &(&ge).into())?;
    let (over_dg, over_de) = swiglu::backward_over(gdh.into(), &(&gg).into(), &(&ge).into())?;
    close(over_dg.tensor()?, dg.tensor()?, 0.0);
    close(over_de.tensor()?, de.tensor()?, 0.0);
    let (wanted_dg, wanted_de) = swiglu::reference_backward(&dh, &g, &e)?;
    close(dg.tensor()?, &wanted_dg, 2.0);
    close(de.tensor()?, &wanted_de, 2.0);
    Ok(())
}

#[test]
fn rotary_embedding_agrees() -> Result<()> {
    let device = gpu();
    let spans = [Span { q: 0..2, k: 0..2 }, Span { q: 2..5, k: 2..66 }];
    let (rows, positions) = (Sequences::new(&spans, &device)?, [0, 1, 61, 62, 63]);
    // Heads of 8 are turned pair by pair, heads of 48 eight pairs at a time.
    for half in [4, 24] {
        let frequencies: Vec<f32> = (0..half).map(|i| 0.8f32.powi(i)).collect();
        let table = |device: &Device| RopeTable::new(&frequencies, 64, device);
        let (here, there) = (table(&Device::Cpu)?, table(&device)?);
        let x = random((5, 3 * 2 * half as usize), 15)?;
        let [gx] = on(&device, [&x]);
        close(&there.forward(&gx, &rows)?, &here.reference_forward(&x, &positions)?, 1.0);
        close(&there.backward(&gx, &rows)?, &here.reference_backward(&x, &positions)?, 1.0);
    }
    Ok(())
}

#[test]
fn rows_go_where_they_should() -> Result<()> {
    let device = gpu();
    for d in [7, 64, 1032, 17_000] {
        let table = random((19, d), 21)?;
        let ids = Tensor::new(&[3u32, 18, 0], &Device::Cpu)?;
        let [gtable, gids] = on(&device, [&table, &ids]);
        let picked = rows::gather(&gtable, &gids)?;
        close(&picked, &table.index_select(&ids, 0)?, 0.0);
        let wanted =
            Tensor::zeros((19, d), DType::BF16, &Device::Cpu)?.index_add(&ids, &table.index_select(&ids, 0)?, 0)?;
        close(&rows::scatter(&picked, &gids, 19)?, &wanted, 0.0);
        close(&rows::append(&picked, &gtable)?, &Tensor::cat(&[&table.index_select(&ids, 0)?, &table], 0)?, 0.0);
    }
    for n in [77, 4096] {
        let numbers = Tensor::from_vec(values(n, 22), n, &Device::Cpu)?;
        let [there] = on(&device, [&numbers]);
        close(&rows::cast(&there, DType::BF16)?, &numbers.to_dtype(DType::BF16)?, 0.0);
        close(&rows::add(&there, &there)?, &(&numbers * 2.0)?, 0.0);
        // One that begins at no multiple of 16 bytes.
        let (there, here) = (there.narrow(0, 1, n - 3)?, numbers.narrow(0, 1, n - 3)?);
        close(&rows::add(&there, &there)?, &(here * 2.0)?, 0.0);
    }
    Ok(())
}

#[test]
fn tensors_are_joined_with_zeros_behind_them() -> Result<()> {
    let device = gpu();
    let parts = [Tensor::from_vec(values(7, 1), 7, &device)?, Tensor::from_vec(values(6, 2), (2, 3), &device)?];
    let joined = rows::join(&[&parts[0], &parts[1]], 16)?;
    assert_eq!(numbers(&joined), [values(7, 1), values(6, 2), vec![0.0; 3]].concat());
    let on_processor: Vec<Tensor> = parts.iter().map(|p| p.to_device(&Device::Cpu)).collect::<Result<_>>()?;
    assert_eq!(numbers(&rows::join(&[&on_processor[0], &on_processor[1]], 16)?), numbers(&joined));
    Ok(())
}
