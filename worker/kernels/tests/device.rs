//! The fast forms on a GPU against the reference forms on the processor, at sizes that are multiples of nothing. Needs
//! the `cuda` feature and a GPU, or the emulated one of `emulated/build.sh`, which also finds reads of what nothing wrote
//! and writes behind the end:
//!
//! `cargo test --release -p qlora-kernels --features cuda --test device`
#![cfg(feature = "cuda")]

use std::process::Command;

use candle_core::{DType, Device, Tensor};
use qlora_kernels::cpu::nf4;
use qlora_kernels::ops::adamw::{self, AdamW, Moments, Norm, Parameter};
use qlora_kernels::ops::cross_entropy::Head;
use qlora_kernels::ops::host::Waiting;
use qlora_kernels::ops::lora::{self, Lowering};
use qlora_kernels::ops::{attention, cross_entropy, dropout, rms_norm, rows, swiglu};
use qlora_kernels::{
    Activations, AttentionShape, DropoutKey, Matrix, Nf4Scales, Nf4Tensor, Products, Result, RopeTable, Sequences,
    Span, Term, cuda,
};

fn gpu() -> Device {
    cuda::open(0).expect("a GPU: this test runs on nothing else")
}

/// An ignored test of this program in a process of its own.
fn ignored(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--ignored", "--exact", "--nocapture", name]);
    command
}

/// What the process of `command` says as it fails.
fn refusal(mut command: Command) -> String {
    let output = command.output().expect("this program");
    assert!(!output.status.success());
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
#[ignore = "run by the tests below"]
fn a_gpu_opens() {
    if let Err(e) = cuda::open(0) {
        panic!("{e}")
    }
}

#[test]
fn a_folder_without_kernels_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = ignored("a_gpu_opens");
    command.env("QLORA_KERNELS", folder.path());
    let said = refusal(command);
    assert!(said.contains("QLORA_KERNELS is") && said.contains("holds no NAME.fatbin or NAME.cubin"), "{said}");
}

#[test]
fn a_program_built_for_tests_refuses_a_real_gpu() {
    if candle_core::cuda_backend::kernels::CAST.ptx().lines().count() > 1 {
        return eprintln!("not run: this program has candle's kernels");
    }
    let mut command = ignored("a_gpu_opens");
    command.env_remove("QLORA_EMULATED_GPU");
    let said = refusal(command);
    assert!(said.contains("without candle's kernels") && said.contains("cargo clean"), "{said}");
}

fn values(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0).collect()
}

/// bf16 on the processor.
fn random(shape: (usize, usize), seed: usize) -> Result<Tensor> {
    Tensor::from_vec(values(shape.0 * shape.1, seed), shape, &Device::Cpu)?.to_dtype(DType::BF16)
}

/// The same on the GPU.
fn on<const N: usize>(device: &Device, tensors: [&Tensor; N]) -> [Tensor; N] {
    tensors.map(|t| t.to_device(device).expect("a copy on the GPU"))
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    let numbers = |t: &Tensor| t.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    numbers(tensor).expect("numbers")
}

/// Largest difference over largest value, in units in the last place of bf16.
#[track_caller]
fn close(found: &Tensor, wanted: &Tensor, steps: f32) {
    assert_eq!(found.dims(), wanted.dims());
    let (found, wanted) = (numbers(found), numbers(wanted));
    let top = wanted.iter().fold(0f32, |a, v| a.max(v.abs()));
    let worst = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(found.iter().all(|v| v.is_finite()) && worst <= steps * top / 128.0, "{worst} of {top}");
}

#[test]
fn nf4_is_dequantised_to_the_bit() -> Result<()> {
    let device = gpu();
    for (shape, double) in [((33, 31), true), ((33, 31), false), ((1, 1), true), ((96, 320), true), ((7, 64), false)] {
        for block in [32, 64, 96, 512] {
            let values = values(shape.0 * shape.1, 1);
            let quantise = |device: &Device| Nf4Tensor::quantise(&values, shape, block, double, device);
            close(&quantise(&device)?.dequantise(DType::BF16)?, &quantise(&Device::Cpu)?.reference(DType::BF16)?, 0.0);
        }
    }
    Ok(())
}

/// A scale is a product and a sum, each rounded: a GPU would make one operation of them. Only a few scales in a million show
/// that in bf16, so such are looked for.
#[test]
fn scales_of_nf4_are_rounded_twice() -> Result<()> {
    let (device, map) = (gpu(), nf4::dynamic_table());
    let bits = |value: f32| half::bf16::from_f32(value).to_bits();
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    let mut found = 0;
    while found < 5 {
        let (code, absmax) = (next() as u8, 1e-3 + next() as f32 * 1e-9);
        let offset = 0.02 + next() as f32 * 1e-9;
        let value = map[usize::from(code)];
        if bits(value * absmax + offset) == bits(value.mul_add(absmax, offset)) {
            continue;
        }
        found += 1;
        // One block of the code for 1: the matrix is its scale.
        let matrix = |device: &Device| {
            let scales = Nf4Scales::Nested {
                codes: Tensor::from_vec(vec![code], 1, device)?,
                absmax: Tensor::from_vec(vec![absmax], 1, device)?,
                offset,
            };
            Nf4Tensor::from_parts(vec![0xff; 32], scales, (1, 64), 64, device)
        };
        let wanted = matrix(&Device::Cpu)?.reference(DType::BF16)?;
        assert_eq!(numbers(&wanted)[0], half::bf16::from_f32(value * absmax + offset).to_f32());
        close(&matrix(&device)?.dequantise(DType::BF16)?, &wanted, 0.0);
    }
    Ok(())
}

/// The emulated GPU does the work of another stream as late as events allow, and looks at what is freed.
#[test]
fn a_matrix_that_was_begun_ahead_is_the_same() -> Result<()> {
    let device = gpu();
    let matrix = |seed| Nf4Tensor::quantise(&values(96 * 320, seed), (96, 320), 64, true, &device);
    let (first, second, third) = (matrix(1)?, matrix(2)?, matrix(3)?);
    let x = random((5, 320), 4)?.to_device(&device)?;
    let wanted =
        [&first, &second].map(|m| Products::CublasLt.wide(&(&x).into(), &m.dequantise(DType::BF16).expect("bf16")));
    for m in [&first, &second, &second, &third] {
        m.begin()?;
    }
    let found = [&first, &second].map(|m| Products::CublasLt.wide(&(&x).into(), m));
    for (found, wanted) in found.into_iter().zip(wanted) {
        close(&found?, &wanted?, 0.0);
    }
    // The third is let go while it is still on its way.
    drop(third);
    let here = Nf4Tensor::quantise(&values(96 * 320, 1), (96, 320), 64, true, &Device::Cpu)?;
    close(&first.dequantise(DType::BF16)?, &here.reference(DType::BF16)?, 0.0);
    Ok(())
}

#[test]
fn nf4_is_quantised_to_the_bit() -> Result<()> {
    let device = gpu();
    for (shape, block, double) in
        // Blocks of one lane to a whole warp, of some that have nothing to do, and of elements that are read twice.
        [
            ((33, 31), 64, true),
            ((1, 1), 64, true),
            ((7, 64), 64, false),
            ((5, 300), 128, true),
            ((64, 96), 32, true),
        ]
        .into_iter()
        .chain([((5, 13), 6, false), ((7, 301), 48, false), ((9, 700), 512, true), ((3, 301), 4096, true)])
    {
        let zeros = vec![0f32; block];
        let mut weights = [values(shape.0 * shape.1, 50), zeros].concat();
        weights.rotate_right(block);
        weights.truncate(shape.0 * shape.1);
        for dtype in [DType::BF16, DType::F32] {
            let matrix = Tensor::from_vec(weights.clone(), shape, &Device::Cpu)?.to_dtype(dtype)?;
            let [there, here] = [&device, &Device::Cpu].map(|d| Nf4Tensor::quantise_matrix(&matrix, block, double, d));
            let (there, here) = (there?, here?);
            let bytes = |m: &Nf4Tensor| m.packed().to_device(&Device::Cpu)?.to_vec1::<u8>();
            assert_eq!(bytes(&there)?, bytes(&here)?, "{shape:?} {dtype:?}");
            let scales = |m: &Nf4Tensor| m.absmax()?.to_device(&Device::Cpu)?.to_vec1::<f32>();
            if double {
                let parts = |m: &Nf4Tensor| match m.scales() {
                    Nf4Scales::Nested { codes, absmax, offset } => {
                        Ok((codes.to_vec1::<u8>()?, absmax.to_vec1::<f32>()?, *offset))
                    }
                    Nf4Scales::Plain(_) => candle_core::bail!("plain scales"),
                };
                assert_eq!(parts(&there)?, parts(&here)?);
            } else {
                assert_eq!(scales(&there)?, scales(&here)?);
            }
        }
    }
    Ok(())
}

/// Half way between two codes, and the closest numbers on both sides.
#[test]
fn a_midpoint_takes_the_lower_code_of_nf4() -> Result<()> {
    let mut weights: Vec<f32> = nf4::midpoints().iter().flat_map(|m| [m.next_down(), *m, m.next_up()]).collect();
    weights.extend([0.0, -0.0, 1.0, -1.0]);
    weights.resize(64, 0.5);
    let matrix = Tensor::from_vec(weights, (1, 64), &Device::Cpu)?;
    let codes = |device: &Device| {
        let matrix = Nf4Tensor::quantise_matrix(&matrix, 64, false, device)?;
        matrix.packed().to_device(&Device::Cpu)?.to_vec1::<u8>()
    };
    let found = codes(&gpu())?;
    assert_eq!(found, codes(&Device::Cpu)?);
    let nibbles: Vec<u8> = found.iter().flat_map(|byte| [byte >> 4, byte & 15]).collect();
    let wanted: Vec<u8> = (0..15).flat_map(|i| [i, i, i + 1]).collect();
    assert_eq!(nibbles[..45], wanted);
    Ok(())
}

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
fn masks_are_those_of_the_processor() -> Result<()> {
    let (x, base) = (random((9, 37), 13)?, random((9, 37), 14)?);
    let key = DropoutKey { seed: 0x1234_5678_9abc, step: 9, projection: 77, first_token: 3, probability: 0.3 };
    let [gx, gbase] = on(&gpu(), [&x, &base]);
    let on_cpu = dropout::add(&x.to_dtype(DType::F32)?, &key, None)?;
    close(&dropout::add(&gx, &key, None)?, &on_cpu.to_dtype(DType::BF16)?, 0.0);
    let on_cpu = (on_cpu + base.to_dtype(DType::F32)?)?;
    close(&dropout::add(&gx, &key, Some(&gbase))?, &on_cpu, 1.0);
    Ok(())
}

/// Adapters that share an input: as many launches as their ranks need, more rows than one part of a gradient has.
#[test]
fn adapters_agree_under_their_masks() -> Result<()> {
    let device = gpu();
    let wide = |t: &Tensor| t.to_dtype(DType::F32);
    for (m, width, rank, count) in
        [(1, 8, 2, 1), (37, 72, 16, 3), (70, 136, 20, 2), (33, 328, 40, 3), (1100, 40, 16, 1)]
    {
        for probability in [Some(0.3), None] {
            let x = random((m, width), 30)?;
            let key = |projection: usize| {
                let projection = 7 + projection as u32;
                let (seed, step, first_token) = (0x1234_5678_9abc, 9, 3);
                probability.map(|probability| DropoutKey { seed, step, projection, first_token, probability })
            };
            let a = |i: usize| wide(&random((rank, width), 31 + i)?);
            let a = (0..count).map(a).collect::<Result<Vec<_>>>()?;
            let du = (0..count).map(|i| random((m, rank), 41 + i)).collect::<Result<Vec<_>>>()?;
            let [gx] = on(&device, [&x]);
            let ga = a.iter().map(|a| a.to_device(&device)).collect::<Result<Vec<_>>>()?;
            let gdu = du.iter().map(|du| Ok(du.to_device(&device)?.into())).collect::<Result<Vec<Activations>>>()?;
            let here: Vec<_> = a.iter().enumerate().map(|(i, a)| Lowering { a, mask: key(i) }).collect();
            let there: Vec<_> = ga.iter().enumerate().map(|(i, a)| Lowering { a, mask: key(i) }).collect();
            let (cpu, x) = (Products::WrittenOut, wide(&x)?.into());
            let found = lora::forward(Products::CublasLt, &(&gx).into(), &there)?;
            for (found, wanted) in found.iter().zip(lora::reference_forward(cpu, &x, &here)?) {
                close(found.tensor()?, wanted.tensor()?, 1.0);
            }
            let du = du.iter().map(|du| Ok(wide(du)?.into())).collect::<Result<Vec<Activations>>>()?;
            let pulls: Vec<_> = here.iter().copied().zip(&du).collect();
            let gpulls: Vec<_> = there.iter().copied().zip(&gdu).collect();
            let (grads, through) = lora::backward(Products::CublasLt, &(&gx).into(), &gpulls)?;
            let (wanted_grads, wanted_through) = lora::reference_backward(cpu, &x, &pulls)?;
            assert_eq!((grads.len(), through.is_some()), (count, probability.is_some()));
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
fn products_and_their_sums_agree() -> Result<()> {
    let device = gpu();
    let (x, w, base) = (random((37, 61), 16)?, random((45, 61), 17)?, random((37, 45), 18)?);
    let (u, b) = (random((37, 3), 19)?, Tensor::from_vec(values(45 * 3, 20), (45, 3), &Device::Cpu)?);
    let [gx, gw, gbase, gu, gb] = on(&device, [&x, &w, &base, &u, &b]);
    let wide = |t: &Tensor| t.to_dtype(DType::F32);
    let terms = |x, u| (Activations::from(x), Activations::from(u));
    let (ax, au) = terms(&gx, &gu);
    let sum = [Term { x: &ax, w: &gw, scale: 1.0 }, Term { x: &au, w: &gb, scale: 1.5 }];
    let low = (wide(&u)?.matmul(&b.to_dtype(DType::BF16)?.to_dtype(DType::F32)?.t()?)? * 1.5)?;
    let wanted = ((wide(&x)?.matmul(&wide(&w)?.t()?)? + low)? + wide(&base)?)?;
    close(&Products::CublasLt.forward(&sum, Some(&gbase))?, &wanted, 2.0);
    let back = Products::CublasLt.backward(&[Term { x: &(&gbase).into(), w: &gw, scale: 0.5 }], Some(&gx))?;
    close(&back, &((wide(&base)?.matmul(&wide(&w)?)? * 0.5)? + wide(&x)?)?, 2.0);
    let outer = Products::CublasLt.outer(&(&gbase).into(), &ax, 0.25)?;
    assert_eq!(outer.dtype(), DType::F32);
    close(&outer, &(wide(&base)?.t()?.matmul(&wide(&x)?)? * 0.25)?, 1e-3);
    Ok(())
}

/// What an adapter changes in its first steps is smaller than the last place of what it is added to.
#[test]
fn a_small_term_of_a_sum_is_not_rounded_away() -> Result<()> {
    let device = gpu();
    let mut found = Vec::new();
    for (m, k, n) in [(64, 96, 80), (256, 512, 256), (384, 1024, 512)] {
        let (x, w, base) = (random((m, k), 16)?, random((n, k), 17)?, random((m, n), 18)?);
        let u = Tensor::ones((m, 2), DType::BF16, &Device::Cpu)?;
        let b = |value: f32| Tensor::from_vec(vec![value; 2 * n], (n, 2), &Device::Cpu);
        let [gx, gw, gbase, gu, gb, gzero] = on(&device, [&x, &w, &base, &u, &b(1e-3)?, &b(0.0)?]);
        let (ax, au) = (Activations::from(&gx), Activations::from(&gu));
        for base in [None, Some(&gbase)] {
            let mean = |b| {
                let terms = [Term { x: &ax, w: &gw, scale: 1.0 }, Term { x: &au, w: b, scale: 1.0 }];
                let sum = numbers(&Products::CublasLt.forward(&terms, base)?);
                Ok::<_, candle_core::Error>(sum.iter().map(|&v| f64::from(v)).sum::<f64>() / sum.len() as f64)
            };
            found.push(((m, k, n), base.is_some(), mean(&gb)? - mean(&gzero)?));
        }
    }
    assert!(found.iter().all(|(.., change)| (1e-3..4e-3).contains(change)), "0.002 is added: {found:?}");
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

/// Loss and gradient of `hidden` through `head`, both in bf16, `rows` rows at a time.
fn loss_agrees(hidden: &Tensor, head: &Tensor, targets: &[u32], rows: usize) -> Result<()> {
    let [ghidden, ghead] = on(&gpu(), [hidden, head]);
    let output = Head { weight: &ghead, products: Products::CublasLt, rows };
    let found = cross_entropy::forward_backward(&ghidden, output, targets, Some(0.25))?;
    let logits = hidden.to_dtype(DType::F32)?.matmul(&head.to_dtype(DType::F32)?.t()?)?;
    let (sum, grad) = cross_entropy::reference(&logits, targets, Some(0.25))?;
    let loss = found.sum.value()?;
    assert!((loss - sum).abs() < 1e-5 * sum, "{loss} and {sum}");
    let wanted = grad.expect("a gradient").matmul(&head.to_dtype(DType::F32)?)?;
    close(&found.grad.expect("a gradient"), &wanted, 2.0);
    let alone = cross_entropy::forward_backward(&ghidden, output, targets, None)?;
    assert!(alone.sum.value()? == loss && alone.grad.is_none());
    Ok(())
}

#[test]
fn the_loss_and_its_gradient_agree() -> Result<()> {
    // All rows at once, in parts of which the last is shorter, and more rows than a real step has at one time.
    for (count, rows) in [(41, 1024), (41, 16), (41, 1), (1030, 1024)] {
        let targets: Vec<u32> = (0..count as u32).map(|i| i * 31 % 397).collect();
        loss_agrees(&random((count, 64), 16)?, &random((397, 64), 17)?, &targets, rows)?;
    }
    Ok(())
}

/// Rows that are longer than what a block keeps of them: seven parts of 8,192 logits on the emulated GPU.
#[test]
fn the_loss_over_large_vocabularies_agrees() -> Result<()> {
    for v in [70_000, 70_001, 65_600, 8192, 8200] {
        // Logits of which few count, and logits of which all count alike.
        for (spread, mean) in [(1.0, 0.0), (0.01, 1.0)] {
            let targets = [0, v as u32 - 1, 57_343 % v as u32, 57_344 % v as u32, 8191];
            let hidden = (random((5, 16), 16)?.to_dtype(DType::F32)? * (4.0 * spread))?.to_dtype(DType::BF16)?;
            let head = (random((v, 16), 17)?.to_dtype(DType::F32)? + mean)?.to_dtype(DType::BF16)?;
            loss_agrees(&hidden, &head, &targets, 3)?;
        }
    }
    Ok(())
}

fn attention_agrees(head_dim: usize, window: Option<usize>, spans: &[Span]) -> Result<()> {
    attention_agrees_on(&gpu(), head_dim, window, spans).map(drop)
}

/// Gives the shape of the sums, by which our kernels and cuDNN can be told apart.
fn attention_agrees_on(
    device: &Device,
    head_dim: usize,
    window: Option<usize>,
    spans: &[Span],
) -> Result<(usize, usize)> {
    let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim, window };
    let (m, keys) = (spans.iter().map(|s| s.q.len()).sum(), spans.iter().map(|s| s.k.len()).sum());
    let (q, k, v) = (random((m, 4 * head_dim), 1)?, random((keys, 2 * head_dim), 2)?, random((keys, 2 * head_dim), 3)?);
    let d_o = random((m, 4 * head_dim), 4)?;
    let [gq, gk, gv, gd] = on(device, [&q, &k, &v, &d_o]);
    let sequences = Sequences::new(spans, device)?;
    let (o, lse) = attention::forward((&gq, &gk, &gv), &shape, &sequences, Products::CublasLt)?;
    let (wanted, wanted_lse) = attention::reference_forward(&q, &k, &v, &shape, spans)?;
    close(&o, &wanted, 1.0);
    let by_head = lse.to_device(&Device::Cpu)?;
    close(&if by_head.dims() == wanted_lse.dims() { by_head } else { by_head.t()? }, &wanted_lse, 0.05);
    let saved = attention::Saved { q: &gq, k: &gk, v: &gv, o: &o, lse: &lse };
    let (dq, dk, dv) = attention::backward(&gd, &saved, &shape, &sequences, Products::CublasLt)?;
    let saved = attention::Saved { q: &q, k: &k, v: &v, o: &wanted, lse: &wanted_lse };
    let (wanted_dq, wanted_dk, wanted_dv) = attention::reference_backward(&d_o, &saved, &shape, spans)?;
    // cuDNN, whose sums lie token by token, rounds more than our kernels do.
    let steps = if lse.dims() == wanted_lse.dims() { 1.5 } else { 2.0 };
    close(&dq, &wanted_dq, steps);
    close(&dk, &wanted_dk, steps);
    close(&dv, &wanted_dv, steps);
    lse.dims2()
}

#[test]
fn attention_agrees_for_every_size_of_head() -> Result<()> {
    for head_dim in [16, 32, 64, 128] {
        attention_agrees(head_dim, None, &Span::packed(&[1, 67, 30]))?;
    }
    Ok(())
}

#[test]
fn attention_over_long_sequences_agrees() -> Result<()> {
    attention_agrees(128, None, &Span::packed(&[201]))?;
    // Four tiles of keys, of which three are held at one time.
    attention_agrees(64, None, &Span::packed(&[401]))
}

#[test]
fn attention_with_a_window_agrees() -> Result<()> {
    for head_dim in [16, 64] {
        attention_agrees(head_dim, Some(9), &Span::packed(&[150, 3, 65]))?;
        attention_agrees(head_dim, Some(70), &Span::packed(&[200]))?;
    }
    attention_agrees(128, Some(130), &Span::packed(&[270]))
}

/// Chips other than Hopper's have kernels of their own; on a Hopper GPU these do not run.
#[test]
fn attention_of_other_chips_agrees() {
    if std::env::var_os("QLORA_EMULATED_GPU").is_none() {
        return eprintln!("not run: it takes the emulated GPU");
    }
    // Ampere's and, with 99 KiB of shared memory, Ada's.
    for capability in ["80", "89"] {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "attention_agrees_for_every_size_of_head", "attention_over_long_sequences_agrees"]);
        command.args(["attention_with_a_window_agrees", "attention_with_keys_from_before_agrees"]);
        let output = command.env("QLORA_EMULATED_CAPABILITY", capability).output().expect("this program");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("4 passed"), "{capability}: {said}");
    }
}

#[test]
fn attention_with_keys_from_before_agrees() -> Result<()> {
    for head_dim in [32, 64, 128] {
        attention_agrees(head_dim, None, &[Span { q: 0..5, k: 0..90 }])?;
        attention_agrees(head_dim, Some(40), &[Span { q: 0..70, k: 0..171 }])?;
    }
    Ok(())
}

#[cfg(feature = "cudnn")]
#[test]
fn attention_by_cudnn_agrees_once_it_is_chosen() -> Result<()> {
    use qlora_kernels::cuda::choice::{Chosen, Wanted, choose};

    let (device, packed) = (gpu(), Span::packed(&[1, 67, 30]));
    let shape = |head_dim| AttentionShape { heads: 4, kv_heads: 2, head_dim, window: None };
    assert_eq!(attention_agrees_on(&device, 64, None, &packed)?, (4, 98));
    for head_dim in [32, 64, 128] {
        let chosen = choose(&device, Wanted::Cudnn, &shape(head_dim), 64)?;
        assert!(matches!(chosen, Chosen::Cudnn { share: None, .. }), "{chosen}");
        assert_eq!(attention_agrees_on(&device, head_dim, None, &packed)?, (98, 4));
        // A longest sequence of a power of two, and of one token more.
        assert_eq!(attention_agrees_on(&device, head_dim, None, &Span::packed(&[64]))?, (64, 4));
        assert_eq!(attention_agrees_on(&device, head_dim, None, &Span::packed(&[65, 3]))?, (68, 4));
    }
    // Keys from before are no whole sequences.
    assert_eq!(attention_agrees_on(&device, 32, None, &[Span { q: 0..5, k: 0..90 }])?, (4, 5));
    let chosen = choose(&device, Wanted::Fastest, &shape(32), 64)?;
    let used = attention_agrees_on(&device, 32, None, &packed)?;
    assert_eq!(matches!(chosen, Chosen::Cudnn { share: Some(_), .. }), used == (98, 4), "{chosen}");
    // Windows that are left at once (with one of 1 all gradients of scores are zero), and of all but a few tokens.
    for window in [2, 9, 64] {
        let windowed = AttentionShape { window: Some(window), ..shape(32) };
        choose(&device, Wanted::Cudnn, &windowed, 64)?;
        assert_eq!(attention_agrees_on(&device, 32, Some(window), &packed)?, (98, 4));
    }
    let chosen = choose(&device, Wanted::Repeatable, &shape(32), 64)?;
    assert!(matches!(chosen, Chosen::Own { .. }), "{chosen}");
    assert_eq!(attention_agrees_on(&device, 32, None, &packed)?, (4, 98));
    Ok(())
}

/// An emulated cuDNN that has no plans for heads of 128 and ignores windows, as its variables say.
#[cfg(feature = "cudnn")]
#[test]
#[ignore = "run by the test below"]
fn a_cudnn_that_fails() -> Result<()> {
    use qlora_kernels::cuda::choice::{Chosen, Wanted, choose};

    let (device, packed) = (gpu(), Span::packed(&[1, 67, 30]));
    let shape = |head_dim, window| AttentionShape { heads: 4, kv_heads: 2, head_dim, window };
    // Our kernels stand in where it has no plan, and it is not taken for them.
    choose(&device, Wanted::Cudnn, &shape(32, None), 64)?;
    assert_eq!(attention_agrees_on(&device, 128, None, &packed)?, (4, 98));
    assert!(choose(&device, Wanted::Cudnn, &shape(128, None), 64).is_err());
    let chosen = choose(&device, Wanted::Fastest, &shape(128, None), 64)?;
    assert!(matches!(chosen, Chosen::Own { .. }), "{chosen}");
    // What differs is not taken.
    let chosen = choose(&device, Wanted::Fastest, &shape(32, Some(9)), 64)?;
    assert!(matches!(&chosen, Chosen::Own { reason } if reason.contains("cuDNN's o is")), "{chosen}");
    assert!(choose(&device, Wanted::Cudnn, &shape(32, Some(9)), 64).is_err());
    attention_agrees_on(&device, 32, Some(9), &packed).map(drop)
}

#[cfg(feature = "cudnn")]
#[test]
fn a_cudnn_that_fails_is_not_taken() {
    if std::env::var_os("QLORA_EMULATED_GPU").is_none() {
        return eprintln!("not run: it takes the emulated cuDNN");
    }
    let faults = [("QLORA_EMULATED_CUDNN_REFUSES", "128"), ("QLORA_EMULATED_CUDNN_IGNORES", "windows")];
    let output = ignored("a_cudnn_that_fails").envs(faults).output().expect("this program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn updates_agree() -> Result<()> {
    let device = gpu();
    let rule = AdamW { learning_rate: 1e-2, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.1, step: 3 };
    let faster = AdamW { learning_rate: 3e-2, ..rule };
    // The last is more than the blocks of a tensor have at one time.
    let sizes = [150, 1, 1030, 70_001];
    let make = |seed, device: &Device| {
        let tensor = |(i, &n): (usize, &usize)| Tensor::from_vec(values(n, seed + i), n, device);
        sizes.iter().enumerate().map(tensor).collect::<Result<Vec<_>>>()
    };
    let update = |device: &Device, most: f64| {
        let (gradients, first, second) = (make(9, device)?, make(30, device)?, make(50, &Device::Cpu)?);
        let (values, rules) = (make(70, device)?, [&rule, &faster, &rule, &faster]);
        let second = second.iter().map(|t| t.abs()?.to_device(device)).collect::<Result<Vec<_>>>()?;
        let moments: Vec<_> =
            first.into_iter().zip(second).map(|(first, second)| Moments::Full { first, second }).collect();
        let parameters: Vec<_> = (0..sizes.len())
            .map(|i| Parameter { value: &values[i], moments: &moments[i], gradient: &gradients[i], rule: rules[i] })
            .collect();
        let norm = Norm::of(&gradients.iter().collect::<Vec<_>>())?;
        Ok::<_, candle_core::Error>((adamw::update_all(&parameters, &norm, most)?, norm.value()?))
    };
    for most in [0.0, 0.5] {
        let ((found, norm), (wanted, wanted_norm)) = (update(&device, most)?, update(&Device::Cpu, most)?);
        assert!((norm / wanted_norm - 1.0).abs() < 1e-5, "{norm} and {wanted_norm}");
        for ((found, moved), (wanted, expected)) in found.iter().zip(&wanted) {
            close(found, wanted, 1e-4);
            let (Moments::Full { first, second }, Moments::Full { first: m, second: v }) = (moved, expected) else {
                panic!("full moments")
            };
            close(first, m, 1e-4);
            close(second, v, 1e-4);
        }
    }
    Ok(())
}

/// Codes may differ where a value lies between two; what they stand for hardly does.
#[test]
fn updates_with_moments_in_8_bits_agree() -> Result<()> {
    let device = gpu();
    let rule = AdamW { learning_rate: 1e-2, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.1, step: 1 };
    let run = |device: &Device| {
        let sizes = [4097, 10, 5000];
        let make = |seed: usize| sizes.map(|n| Tensor::from_vec(values(n, seed), n, device).expect("values"));
        let (mut value, gradients) = (make(3), make(4));
        let mut moments = [Moments::coded(&value[0])?, Moments::full(&value[1])?, Moments::coded(&value[2])?];
        for step in 1..=3 {
            let rule = AdamW { step, ..rule };
            let parameters: Vec<_> = (0..3)
                .map(|i| Parameter { value: &value[i], moments: &moments[i], gradient: &gradients[i], rule: &rule })
                .collect();
            let norm = Norm::of(&gradients.iter().collect::<Vec<_>>())?;
            let updated = adamw::update_all(&parameters, &norm, 1.0)?;
            for (i, (new, moved)) in updated.into_iter().enumerate() {
                (value[i], moments[i]) = (new, moved);
            }
        }
        Ok::<_, candle_core::Error>((value, moments))
    };
    let ((found, moved), (wanted, expected)) = (run(&device)?, run(&Device::Cpu)?);
    for i in 0..3 {
        close(&found[i], &wanted[i], 1e-2);
        if let (Moments::Coded { first, .. }, Moments::Coded { first: wanted, .. }) = (&moved[i], &expected[i]) {
            close(&first.scales, &wanted.scales, 1e-3);
            let pairs = first.codes.to_vec1::<u8>()?.into_iter().zip(wanted.codes.to_vec1::<u8>()?);
            let other = pairs.filter(|(a, b)| a != b).count();
            assert!(other * 100 < first.codes.elem_count(), "{other} codes differ");
        }
    }
    Ok(())
}

/// GPUs of this machine; the emulated one is as many as are wanted.
fn several(wanted: usize) -> Option<Vec<Device>> {
    let emulated = std::env::var_os("QLORA_EMULATED_GPU").is_some();
    (0..wanted).map(|i| cuda::open(if emulated { 0 } else { i }).ok()).collect()
}

#[test]
fn sums_over_several_gpus_have_the_order_and_the_bits_of_one() {
    // Numbers of which each order of adding gives another sum, one of the vectors shorter than there are GPUs.
    let value = |rank: usize, i: usize| ((i * 31 + rank * 17) as f32).sin() * 10f32.powi(rank as i32 * 3);
    for (size, n) in [(2, 1001), (3, 1), (4, 1003)] {
        let Some(devices) = several(size) else { return eprintln!("not run: it takes {size} GPUs") };
        let invitation = cuda::nccl::invite().expect("NCCL");
        let sums: Vec<Vec<f32>> = std::thread::scope(|scope| {
            let sum = |(rank, device): (usize, Device)| {
                let mut group = cuda::nccl::Communicator::join(&invitation, rank, size, &device).expect("a group");
                let own = Tensor::from_iter((0..n).map(|i| value(rank, i)), &device).expect("a vector");
                numbers(&group.sum(&own).expect("a sum"))
            };
            let threads: Vec<_> = devices.into_iter().enumerate().map(|d| scope.spawn(move || sum(d))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a sum")).collect()
        });
        let v = value;
        let wanted: Vec<f32> = (0..n)
            .map(|i| match size {
                2 => v(0, i) + v(1, i),
                3 => (v(0, i) + v(1, i)) + v(2, i),
                _ => (v(0, i) + v(1, i)) + (v(2, i) + v(3, i)),
            })
            .collect();
        assert!(sums.iter().all(|sum| *sum == wanted), "{size} GPUs");
    }
}

#[test]
fn tensors_come_back_from_the_machines_memory_as_they_were() -> Result<()> {
    let device = gpu();
    let originals = (0..3).map(|i| random((5 + i, 33), i)).collect::<Result<Vec<_>>>()?;
    // Twice, so that pinned memory is used again; the last one is dropped without being brought back.
    for _ in 0..2 {
        let mut sent = Vec::new();
        for original in &originals {
            let mut away = Waiting::away(&original.to_device(&device)?)?;
            away.settle()?;
            sent.push(away);
        }
        drop(sent.pop());
        sent[1].recall()?;
        for (away, original) in sent.into_iter().zip(&originals).rev() {
            close(&away.take()?, original, 0.0);
        }
        let never_settled = Waiting::away(&originals[0].to_device(&device)?)?;
        close(&never_settled.take()?, &originals[0], 0.0);
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
