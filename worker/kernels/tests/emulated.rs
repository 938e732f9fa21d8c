//! The CUDA kernels, run on the processor by `emulated/emulator.h`, against the reference forms: sizes that are
//! multiples of nothing, outputs that were poisoned before, and room behind them that must stay as it was.

// The kernels are functions of a library in another language.
#![allow(unsafe_code)]

use std::process::Command;
use std::sync::LazyLock;

use candle_core::{DType, Device, Tensor};
use half::bf16;
use libloading::{Library, Symbol};
use qlora_kernels::cpu::dynamic8;
use qlora_kernels::ops::adamw::{AdamW, Constants};
use qlora_kernels::ops::{cross_entropy, dropout, rms_norm, swiglu};
use qlora_kernels::{DropoutKey, Nf4Scales, Nf4Tensor, Result, RopeTable};

const THREADS: u32 = 64;
/// Elements behind every output.
const GUARD: usize = 40;

static KERNELS: LazyLock<Library> = LazyLock::new(|| {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/emulated");
    let home = tempfile::tempdir().expect("a folder").keep();
    let library = home.join("kernels.so");
    let mut compiler = Command::new("c++");
    compiler.args(["-std=c++20", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-pthread", "-I", folder]);
    compiler.args(["-I", concat!(env!("CARGO_MANIFEST_DIR"), "/src/cuda"), "-o"]).arg(&library);
    let made = compiler.arg(format!("{folder}/kernels.cpp")).output().expect("a C++ compiler, c++");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    // SAFETY: the library was made just now and does nothing when it is loaded.
    let loaded = unsafe { Library::new(&library) }.expect("a library");
    std::fs::remove_dir_all(home).expect("the folder of the library goes");
    loaded
});

/// The function `run_<name>` of the library.
fn kernel<F>(name: &str) -> Symbol<'static, F> {
    // SAFETY: every caller gives the type of its function in `kernels.cpp`.
    unsafe { KERNELS.get(format!("run_{name}").as_bytes()) }.expect("a kernel")
}

fn values(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0).collect()
}

/// A bf16 matrix, as numbers and as a tensor.
fn random(shape: (usize, usize), seed: usize) -> Result<(Vec<bf16>, Tensor)> {
    let values: Vec<bf16> = values(shape.0 * shape.1, seed).into_iter().map(bf16::from_f32).collect();
    let tensor = Tensor::from_slice(&values, shape, &Device::Cpu)?;
    Ok((values, tensor))
}

fn poisoned(n: usize) -> Vec<bf16> {
    vec![bf16::NAN; n + GUARD]
}

/// What a kernel wrote, after a look at what lies behind it.
#[track_caller]
fn written(mut out: Vec<bf16>, n: usize) -> Vec<f32> {
    assert!(out[n..].iter().all(|v| v.to_bits() == bf16::NAN.to_bits()), "something was written behind the end");
    out.truncate(n);
    out.into_iter().map(bf16::to_f32).collect()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).and_then(|t| t.flatten_all()?.to_vec1()).expect("numbers")
}

/// `found` and `wanted` differ by `steps` units in the last place of bf16 at the most, of the largest number in `wanted`.
#[track_caller]
fn close(found: &[f32], wanted: &[f32], steps: f32) {
    assert_eq!(found.len(), wanted.len());
    let top = wanted.iter().fold(0f32, |a, v| a.max(v.abs()));
    for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        assert!((found - wanted).abs() <= steps * top / 128.0, "element {i}: {found} and {wanted}");
    }
}

#[test]
fn nf4_is_dequantised_to_the_bit() -> Result<()> {
    type Run = unsafe extern "C" fn(u32, u32, *const u8, *const u8, *const f32, *const f32, f32, i64, i32, *mut bf16);
    let run = kernel::<Run>("nf4_to_bf16");
    for (shape, double) in [((33, 31), true), ((33, 31), false), ((1, 1), true), ((96, 320), true), ((7, 64), false)] {
        let n = shape.0 * shape.1;
        let matrix = Nf4Tensor::quantise(&values(n, 1), shape, 64, double, &Device::Cpu)?;
        let packed = matrix.packed().to_vec1::<u8>()?;
        let (codes, scales, offset) = match matrix.scales() {
            Nf4Scales::Plain(absmax) => (None, absmax.to_vec1::<f32>()?, 0.0),
            Nf4Scales::Nested { codes, absmax, offset } => (Some(codes.to_vec1::<u8>()?), absmax.to_vec1()?, *offset),
        };
        // The kernel reads 16 bytes at a time.
        let packed: Vec<u128> = packed.chunks(16).map(word).collect();
        let codes = codes.as_ref().map_or(std::ptr::null(), |codes| codes.as_ptr());
        let (blocks, mut out) = (n.div_ceil(32 * THREADS as usize) as u32, poisoned(n));
        // SAFETY: sizes are those that the kernel is told.
        unsafe {
            let map = dynamic8::SIGNED.values.as_ptr();
            let packed = packed.as_ptr().cast();
            run(blocks, THREADS, packed, codes, scales.as_ptr(), map, offset, n as i64, 64, out.as_mut_ptr());
        }
        assert_eq!(written(out, n), numbers(&matrix.dequantise(DType::BF16)?), "{shape:?}");
    }
    Ok(())
}

fn word(bytes: &[u8]) -> u128 {
    let mut whole = [0u8; 16];
    whole[..bytes.len()].copy_from_slice(bytes);
    u128::from_le_bytes(whole)
}

#[test]
fn norms_and_their_gradients_are_the_references() -> Result<()> {
    type Forward = unsafe extern "C" fn(u32, u32, *const bf16, *const bf16, i32, f32, *mut bf16, *mut f32);
    type Backward =
        unsafe extern "C" fn(u32, u32, *const bf16, *const bf16, *const bf16, *const f32, *const bf16, i32, *mut bf16);
    let (forward, backward) = (kernel::<Forward>("rms_norm_forward"), kernel::<Backward>("rms_norm_backward"));
    for (m, d) in [(1, 1), (3, 97), (5, 64), (2, 1000)] {
        let ((x, tx), (dy, tdy), (base, tbase)) = (random((m, d), 2)?, random((m, d), 3)?, random((m, d), 4)?);
        let (w, tw) = random((1, d), 5)?;
        let tw = tw.squeeze(0)?;
        let (mut y, mut rho, mut dx) = (poisoned(m * d), vec![f32::NAN; m], poisoned(m * d));
        // SAFETY: sizes are those that the kernels are told.
        unsafe {
            forward(m as u32, THREADS, x.as_ptr(), w.as_ptr(), d as i32, 1e-5, y.as_mut_ptr(), rho.as_mut_ptr());
            let base = if m > 1 { base.as_ptr() } else { std::ptr::null() };
            let (dy, x, w) = (dy.as_ptr(), x.as_ptr(), w.as_ptr());
            backward(m as u32, THREADS, dy, x, w, rho.as_ptr(), base, d as i32, dx.as_mut_ptr());
        }
        let (wanted, wanted_rho) = rms_norm::reference_forward(&tx, &tw, 1e-5)?;
        close(&written(y, m * d), &numbers(&wanted), 1.0);
        close(&rho, &numbers(&wanted_rho), 1e-3);
        let [tdy, tx, tw, tbase] = [&tdy, &tx, &tw, &tbase].map(|t| t.to_dtype(DType::F32).expect("f32"));
        let wanted = rms_norm::reference_backward(&tdy, &tx, &tw, &wanted_rho)?;
        let wanted = if m > 1 { (wanted + tbase)? } else { wanted };
        close(&written(dx, m * d), &numbers(&wanted), 1.0);
    }
    Ok(())
}

#[test]
fn the_gated_activation_and_its_gradients_are_the_references() -> Result<()> {
    type Forward = unsafe extern "C" fn(u32, u32, *const bf16, *const bf16, i64, *mut bf16);
    type Backward = unsafe extern "C" fn(u32, u32, *const bf16, *const bf16, *const bf16, i64, *mut bf16, *mut bf16);
    let (forward, backward) = (kernel::<Forward>("swiglu_forward"), kernel::<Backward>("swiglu_backward"));
    let shape = (7, 61);
    let n = shape.0 * shape.1;
    let ((g, tg), (e, te), (dh, tdh)) = (random(shape, 6)?, random(shape, 7)?, random(shape, 8)?);
    let (mut h, mut dg, mut de) = (poisoned(n), poisoned(n), poisoned(n));
    let blocks = n.div_ceil(THREADS as usize) as u32;
    // SAFETY: sizes are those that the kernels are told.
    unsafe {
        forward(blocks, THREADS, g.as_ptr(), e.as_ptr(), n as i64, h.as_mut_ptr());
        let (dg, de) = (dg.as_mut_ptr(), de.as_mut_ptr());
        backward(blocks, THREADS, dh.as_ptr(), g.as_ptr(), e.as_ptr(), n as i64, dg, de);
    }
    let [tg, te, tdh] = [&tg, &te, &tdh].map(|t| t.to_dtype(DType::F32).expect("f32"));
    close(&written(h, n), &numbers(&swiglu::reference_forward(&tg, &te)?), 0.5);
    let (wanted_dg, wanted_de) = swiglu::reference_backward(&tdh, &tg, &te)?;
    close(&written(dg, n), &numbers(&wanted_dg), 0.5);
    close(&written(de, n), &numbers(&wanted_de), 0.5);
    Ok(())
}

#[test]
fn updates_are_the_references() -> Result<()> {
    type Run = unsafe extern "C" fn(u32, u32, *const f32, *mut f32, *mut f32, *mut f32, i64, *const Constants);
    let n = 150;
    let (gradient, value) = (values(n, 9), values(n, 10));
    let (first, second): (Vec<f32>, Vec<f32>) = (values(n, 11), values(n, 12).into_iter().map(f32::abs).collect());
    let rule = AdamW { learning_rate: 1e-2, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.1, step: 3 };
    let tensor = |values: &[f32]| Tensor::from_slice(values, n, &Device::Cpu);
    let (wanted, _) =
        rule.reference(&tensor(&value)?, (&tensor(&first)?, &tensor(&second)?), &tensor(&gradient)?, 0.5)?;
    let constants = rule.constants(0.5);
    let (mut value, mut first, mut second) = (value, first, second);
    let blocks = n.div_ceil(THREADS as usize) as u32;
    // SAFETY: sizes are those that the kernel is told.
    unsafe {
        let (value, first, second) = (value.as_mut_ptr(), first.as_mut_ptr(), second.as_mut_ptr());
        let run = kernel::<Run>("adamw");
        run(blocks, THREADS, gradient.as_ptr(), value, first, second, n as i64, &raw const constants);
    }
    close(&value, &numbers(&wanted), 1e-4);
    Ok(())
}

/// The device draws the masks of the processor, also where a group of eight begins before the tensor.
#[test]
fn masks_are_those_of_the_processor() -> Result<()> {
    type Run =
        unsafe extern "C" fn(u32, u32, *const bf16, *const bf16, i64, u64, u32, u32, u32, u32, u32, f32, *mut bf16);
    let run = kernel::<Run>("dropout");
    let (m, d) = (9, 37);
    let n = m * d;
    let ((x, tx), (base, tbase)) = (random((m, d), 13)?, random((m, d), 14)?);
    let [tx, tbase] = [&tx, &tbase].map(|t| t.to_dtype(DType::F32).expect("f32"));
    for (first_token, with_base) in [(0, false), (3, true), (1 << 33, true)] {
        let key = DropoutKey { seed: 0x1234_5678_9abc, step: 9, projection: 77, first_token, probability: 0.3 };
        let mut out = poisoned(n);
        let blocks = (n.div_ceil(8) + 1).div_ceil(THREADS as usize) as u32;
        // SAFETY: sizes are those that the kernel is told.
        unsafe {
            let base = if with_base { base.as_ptr() } else { std::ptr::null() };
            let (low, high) = (key.seed as u32, (key.seed >> 32) as u32);
            let first = key.first_token * d as u64;
            let (threshold, kept, out) = (key.threshold(), key.kept(), out.as_mut_ptr());
            let (x, n) = (x.as_ptr(), n as i64);
            run(blocks, THREADS, x, base, n, first, low, high, key.projection, key.step, threshold, kept, out);
        }
        let wanted = dropout::add(&tx, &key, with_base.then_some(&tbase))?;
        assert_eq!(written(out, n), numbers(&wanted.to_dtype(DType::BF16)?), "from token {first_token}");
    }
    Ok(())
}

#[test]
fn pairs_are_turned_as_by_the_reference() -> Result<()> {
    type Run =
        unsafe extern "C" fn(u32, u32, *const bf16, *const u32, *const f32, *const f32, i64, i32, i32, f32, *mut bf16);
    let run = kernel::<Run>("rope");
    let (m, heads, head) = (5, 3, 10);
    let (n, half) = (m * heads * head, head / 2);
    let frequencies: Vec<f32> = (0..half).map(|i| 1.0 / (1.0 + i as f32)).collect();
    let table = RopeTable::new(&frequencies, 16, &Device::Cpu)?;
    let positions = [0u32, 7, 3, 15, 1];
    let angle = |i: usize| (i / half) as f32 * frequencies[i % half];
    let cos: Vec<f32> = (0..16 * half).map(|i| angle(i).cos()).collect();
    let sin: Vec<f32> = (0..16 * half).map(|i| angle(i).sin()).collect();
    let (x, tx) = random((m, heads * head), 15)?;
    let tx = tx.to_dtype(DType::F32)?;
    for sign in [1.0, -1.0] {
        let mut y = poisoned(n);
        // SAFETY: sizes are those that the kernel is told.
        unsafe {
            let (x, positions, cos, sin) = (x.as_ptr(), positions.as_ptr(), cos.as_ptr(), sin.as_ptr());
            let (pairs, width, y) = ((n / 2) as i64, (heads * head) as i32, y.as_mut_ptr());
            let blocks = (n / 2).div_ceil(THREADS as usize) as u32;
            run(blocks, THREADS, x, positions, cos, sin, pairs, width, head as i32, sign, y);
        }
        let wanted = if sign > 0.0 {
            table.reference_forward(&tx, &positions)?
        } else {
            table.reference_backward(&tx, &positions)?
        };
        close(&written(y, n), &numbers(&wanted), 0.5);
    }
    Ok(())
}

#[test]
fn the_loss_and_its_gradient_are_the_references() -> Result<()> {
    type Run = unsafe extern "C" fn(u32, u32, *const f32, *const u32, i32, f32, *mut f32, *mut bf16);
    let run = kernel::<Run>("cross_entropy");
    for (rows, v) in [(1, 2), (3, 97), (2, 1001)] {
        let logits: Vec<f32> = values(rows * v, 16).into_iter().map(|x| 6.0 * x).collect();
        let targets: Vec<u32> = (0..rows).map(|row| (row * 31 % v) as u32).collect();
        let tensor = Tensor::from_slice(&logits, (rows, v), &Device::Cpu)?;
        let (wanted, wanted_grad) = cross_entropy::reference(&tensor, &targets, Some(0.25))?;
        for with_grad in [true, false] {
            let (mut losses, mut grad) = (vec![f32::NAN; rows], poisoned(rows * v));
            // SAFETY: sizes are those that the kernel is told.
            unsafe {
                let grad = if with_grad { grad.as_mut_ptr() } else { std::ptr::null_mut() };
                let (logits, targets, losses) = (logits.as_ptr(), targets.as_ptr(), losses.as_mut_ptr());
                run(rows as u32, THREADS, logits, targets, v as i32, 0.25, losses, grad);
            }
            let sum: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
            assert!((sum - wanted).abs() < 1e-5 * wanted, "{sum} and {wanted}");
            if with_grad {
                close(&written(grad, rows * v), &numbers(wanted_grad.as_ref().expect("a gradient")), 0.5);
            }
        }
    }
    Ok(())
}
