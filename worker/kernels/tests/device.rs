//! The fast forms on an NVIDIA GPU against the reference forms on the same GPU. Needs the `cuda` feature and a GPU:
//! `cargo test --release -p qlora-kernels --features cuda --test device`.
#![cfg(feature = "cuda")]

use candle_core::{DType, Device, Tensor};
use qlora_kernels::ops::{adamw, cross_entropy, dropout, rms_norm, swiglu};
use qlora_kernels::{DropoutKey, Nf4Tensor, Products, Result, RopeTable};

fn gpu() -> Device {
    Device::new_cuda(0).expect("a GPU: this test runs on nothing else")
}

fn values(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0).collect()
}

/// bf16 on the GPU.
fn random(shape: (usize, usize), seed: usize) -> Result<Tensor> {
    Tensor::from_vec(values(shape.0 * shape.1, seed), shape, &gpu())?.to_dtype(DType::BF16)
}

/// Largest difference over largest value, in units in the last place of bf16.
#[track_caller]
fn close(found: &Tensor, wanted: &Tensor, steps: f32) {
    let numbers = |t: &Tensor| t.to_dtype(DType::F32).and_then(|t| t.flatten_all()?.to_vec1::<f32>()).expect("numbers");
    let (found, wanted) = (numbers(found), numbers(wanted));
    assert_eq!(found.len(), wanted.len());
    let top = wanted.iter().fold(0f32, |a, v| a.max(v.abs()));
    let worst = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(found.iter().all(|v| v.is_finite()) && worst <= steps * top / 128.0, "{worst} of {top}");
}

#[test]
fn nf4_is_dequantised_to_the_bit() -> Result<()> {
    for (shape, double) in [((33, 31), true), ((33, 31), false), ((1024, 4096), true)] {
        let matrix = Nf4Tensor::quantise(&values(shape.0 * shape.1, 1), shape, 64, double, &gpu())?;
        close(&matrix.dequantise(DType::BF16)?, &matrix.reference(DType::BF16)?, 0.0);
    }
    Ok(())
}

#[test]
fn norms_agree() -> Result<()> {
    for shape in [(3, 97), (301, 4096)] {
        let (x, dy, base) = (random(shape, 2)?, random(shape, 3)?, random(shape, 4)?);
        let w = random((1, shape.1), 5)?.squeeze(0)?;
        let (y, rho) = rms_norm::forward(&x, &w, 1e-5)?;
        let (wanted, wanted_rho) = rms_norm::reference_forward(&x, &w, 1e-5)?;
        close(&y, &wanted, 1.0);
        close(&rho, &wanted_rho, 0.1);
        let dx = rms_norm::backward(&dy, &x, &w, &rho, Some(&base))?;
        close(&dx, &(rms_norm::reference_backward(&dy, &x, &w, &wanted_rho)? + &base)?, 2.0);
    }
    Ok(())
}

#[test]
fn the_gated_activation_agrees() -> Result<()> {
    let shape = (301, 1433);
    let (g, e, dh) = (random(shape, 6)?, random(shape, 7)?, random(shape, 8)?);
    close(swiglu::forward(&(&g).into(), &(&e).into())?.tensor()?, &swiglu::reference_forward(&g, &e)?, 2.0);
    let (dg, de) = swiglu::backward(&(&dh).into(), &(&g).into(), &(&e).into())?;
    let (wanted_dg, wanted_de) = swiglu::reference_backward(&dh, &g, &e)?;
    close(dg.tensor()?, &wanted_dg, 2.0);
    close(de.tensor()?, &wanted_de, 2.0);
    Ok(())
}

#[test]
fn masks_are_those_of_the_processor() -> Result<()> {
    let x = random((9, 37), 13)?;
    let key = DropoutKey { seed: 0x1234_5678_9abc, step: 9, projection: 77, first_token: 3, probability: 0.3 };
    let on_cpu = dropout::add(&x.to_device(&Device::Cpu)?.to_dtype(DType::F32)?, &key, None)?;
    close(&dropout::add(&x, &key, None)?, &on_cpu.to_dtype(DType::BF16)?, 0.0);
    Ok(())
}

#[test]
fn rotary_embedding_agrees() -> Result<()> {
    let table = RopeTable::new(&[1.0, 0.5, 0.25, 0.1], 64, &gpu())?;
    let (x, positions) = (random((5, 24), 15)?, [0, 7, 3, 15, 63]);
    close(&table.forward(&x, &positions)?, &table.reference_forward(&x, &positions)?, 1.0);
    close(&table.backward(&x, &positions)?, &table.reference_backward(&x, &positions)?, 1.0);
    Ok(())
}

#[test]
fn the_loss_and_its_gradient_agree() -> Result<()> {
    let (hidden, head) = (random((301, 64), 16)?, random((997, 64), 17)?);
    let targets: Vec<u32> = (0..301).map(|i| i * 31 % 997).collect();
    let found = cross_entropy::forward_backward(&hidden, Products::WrittenOut, &head, &targets, Some(0.25))?;
    let logits = hidden.matmul(&head.t()?)?;
    let (sum, grad) = cross_entropy::reference(&logits, &targets, Some(0.25))?;
    assert!((found.sum - sum).abs() < 1e-2 * sum, "{} and {sum}", found.sum);
    close(&found.grad.expect("a gradient"), &grad.expect("a gradient").matmul(&head)?, 4.0);
    Ok(())
}

#[test]
fn updates_agree() -> Result<()> {
    let rule =
        adamw::AdamW { learning_rate: 1e-2, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.1, step: 3 };
    let f32s = |seed| Tensor::from_vec(values(150, seed), 150, &gpu());
    let (gradient, value, first, second) = (f32s(9)?, f32s(10)?, f32s(11)?, f32s(12)?.abs()?);
    let moments = adamw::Moments::Full { first: first.clone(), second: second.clone() };
    let (found, _) = rule.update(&value, &moments, &gradient, 0.5)?;
    close(&found, &rule.reference(&value, (&first, &second), &gradient, 0.5)?.0, 1e-3);
    Ok(())
}
