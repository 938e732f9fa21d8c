//! NF4 and the way back, bit for bit: every backend writes and reads what the reference does.

use candle_core::{DType, Device, Tensor};
use qlora_kernels::backend::{self, host};
use qlora_kernels::host::nf4;
use qlora_kernels::types::loss::Head;
use qlora_kernels::{Backend, Nf4Scales, Nf4Tensor, Result};
use qlora_testkit::tensors::{elements, spread};

use crate::fixture::{Mat, on_every};

fn reference() -> std::sync::Arc<dyn Backend> {
    backend::reference(&Device::Cpu, DType::BF16)
}

/// Weights on the CPU.
fn weights((rows, cols): (usize, usize), seed: usize) -> Result<Tensor> {
    Tensor::from_vec(spread(rows * cols, seed, 2003), (rows, cols), &Device::Cpu)
}

#[test]
fn nf4_is_dequantized_bit_identically() {
    for (shape, double) in [
        ((33, 31), true),
        ((33, 31), false),
        ((1, 1), true),
        ((3, 1), true),
        ((96, 320), true),
        ((120, 320), true),
        ((7, 64), false),
    ] {
        for block in [32, 64, 96, 512] {
            let matrix = weights(shape, 1).expect("weights");
            let here = reference()
                .quantize(&matrix, block, double)
                .expect("a matrix");
            for dtype in [DType::BF16, DType::F32] {
                let wanted = reference().dequantize(&here, dtype).expect("floats");
                on_every(|subject| {
                    // A GPU has no kernel that writes `f32`.
                    if subject.is_gpu() && dtype == DType::F32 {
                        return Ok(());
                    }
                    let there = subject.backend.quantize(&matrix, block, double)?;
                    let found = subject.backend.dequantize(&there, dtype)?;
                    assert_eq!(
                        (found.dims(), found.dtype()),
                        (&[shape.0, shape.1][..], dtype)
                    );
                    subject.same("dequantized", &found, &Mat::of(&wanted));
                    // Blocks of 64 lose this much of the largest value at most.
                    if block == 64 {
                        let off = Mat::of(&found).map2(&Mat::of(&matrix), |a, b| (a - b).abs());
                        assert!(off.data.iter().all(|&off| off <= 0.2), "{}", subject.name);
                    }
                    Ok(())
                });
            }
        }
    }
}

/// Matrices that are written out ahead, on a stream of their own where there is one: the emulated
/// GPU does its work as late as events allow, and looks at what is freed.
#[test]
fn a_prefetched_matrix_is_the_same() {
    on_every(|subject| {
        let backend = &subject.backend;
        let matrix = |seed| backend.quantize(&weights((96, 320), seed)?, 64, true);
        let matrices = [matrix(1)?, matrix(2)?, matrix(3)?];
        let x = subject.tensor(&Mat::random(5, 320, 4, 1.0)).into();
        let product =
            |m: &Nf4Tensor| -> Result<Mat> { Ok(Mat::of(&backend.logits(&x, Head::new(m, 1))?)) };
        let wanted = [product(&matrices[0])?, product(&matrices[1])?];
        let [first, second, third] = matrices;
        for m in [&first, &second, &second, &third] {
            backend.prefetch(m)?;
        }
        assert_eq!([product(&first)?, product(&second)?], wanted);
        // The third is let go while it is still on its way, and the backend that writes it after.
        drop(third);
        let here = reference().quantize(&weights((96, 320), 1)?, 64, true)?;
        let wanted = reference().dequantize(&here, DType::BF16)?;
        let found = backend.dequantize(&first, DType::BF16)?;
        subject.same("once it is taken", &found, &Mat::of(&wanted));
        Ok(())
    });
}

/// A scale is a product and a sum, each rounded: a GPU would make one operation of them. Only a few
/// scales in a million show that in bf16, so such are looked for.
#[test]
fn scales_of_nf4_are_rounded_twice() {
    let (cpu, map) = (reference(), nf4::dynamic_table());
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
        let here = matrix(&Device::Cpu).expect("a matrix");
        let wanted = cpu.dequantize(&here, DType::BF16).expect("bf16");
        assert_eq!(
            elements(&wanted)[0],
            half::bf16::from_f32(value * absmax + offset).to_f32()
        );
        on_every(|subject| {
            let there = matrix(subject.backend.device())?;
            let found = subject.backend.dequantize(&there, DType::BF16)?;
            subject.same("a scale", &found, &Mat::of(&wanted));
            Ok(())
        });
    }
}

#[test]
fn nf4_is_quantized_bit_identically() {
    for (shape, block, double) in
        // Blocks of one lane to a whole warp, of some that have nothing to do, and of elements that
        // are read twice.
        [
            ((33, 31), 64, true),
            ((1, 1), 64, true),
            ((7, 64), 64, false),
            ((5, 300), 128, true),
            ((64, 96), 32, true),
        ]
        .into_iter()
        .chain([
            ((5, 13), 6, false),
            ((7, 301), 48, false),
            ((9, 700), 512, true),
            ((3, 301), 4096, true),
        ])
    {
        let zeros = vec![0f32; block];
        let mut values = [spread(shape.0 * shape.1, 50, 2003), zeros].concat();
        values.rotate_right(block);
        values.truncate(shape.0 * shape.1);
        for dtype in [DType::BF16, DType::F32] {
            let matrix = Tensor::from_vec(values.clone(), shape, &Device::Cpu)
                .and_then(|t| t.to_dtype(dtype))
                .expect("weights");
            let written = |backend: &dyn Backend| {
                let matrix = backend.quantize(&matrix, block, double)?;
                let bytes = matrix.packed().to_device(&Device::Cpu)?.to_vec1::<u8>()?;
                let scales = match matrix.scales() {
                    Nf4Scales::Nested {
                        codes,
                        absmax,
                        offset,
                    } => (codes.to_vec1::<u8>()?, absmax.to_vec1::<f32>()?, *offset),
                    Nf4Scales::Plain(absmax) => (Vec::new(), absmax.to_vec1()?, 0.0),
                };
                Ok::<_, candle_core::Error>((bytes, scales))
            };
            let wanted = written(&*reference()).expect("a matrix");
            assert_eq!(wanted.1.0.is_empty(), !double);
            on_every(|subject| {
                let found = written(&*subject.backend)?;
                assert_eq!(found, wanted, "{shape:?} {dtype:?} on {}", subject.name);
                Ok(())
            });
        }
    }
}

/// Half way between two codes, and the closest values on both sides.
#[test]
fn a_midpoint_takes_the_lower_code_of_nf4() {
    let mut weights: Vec<f32> = nf4::midpoints()
        .iter()
        .flat_map(|m| [m.next_down(), *m, m.next_up()])
        .collect();
    weights.extend([0.0, -0.0, 1.0, -1.0]);
    weights.resize(64, 0.5);
    let matrix = Tensor::from_vec(weights, (1, 64), &Device::Cpu).expect("weights");
    let codes = |backend: &dyn Backend| {
        let matrix = backend.quantize(&matrix, 64, false)?;
        matrix.packed().to_device(&Device::Cpu)?.to_vec1::<u8>()
    };
    let wanted = codes(&*reference()).expect("codes");
    let nibbles: Vec<u8> = wanted
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .collect();
    let lower: Vec<u8> = (0..15).flat_map(|i| [i, i, i + 1]).collect();
    assert_eq!(nibbles[..45], lower);
    on_every(|subject| {
        assert_eq!(codes(&*subject.backend)?, wanted, "{}", subject.name);
        Ok(())
    });
}

/// What NF4 loses is the same everywhere: table value x scale, rounded once.
#[test]
fn what_nf4_loses_and_its_products() {
    let host = host();
    for (rows, cols, block, double) in [
        (33, 31, 64, true),
        (3, 1, 64, true),
        (40, 64, 32, false),
        (9, 70, 96, true),
    ] {
        let weights = Mat::random(rows, cols, 5, 1.0);
        on_every(|subject| {
            let backend = &subject.backend;
            let plain = Tensor::from_vec(
                weights.data.iter().map(|&v| v as f32).collect(),
                (rows, cols),
                host.device(),
            )?;
            let codes = host.quantize(&plain, block, double)?;
            let exact = host
                .dequantize(&codes, DType::BF16)?
                .to_dtype(DType::F32)?
                .flatten_all()?
                .to_vec1::<f32>()?;
            let wanted = Mat::new(rows, cols, |i, j| f64::from(exact[i * cols + j]));
            let there = backend.quantize(&plain, block, double)?;
            backend.prefetch(&there)?;
            subject.close(
                "dequantize",
                &backend.dequantize(&there, DType::BF16)?,
                &wanted,
            );
            let x = Mat::random(4, cols, 6, 1.0);
            let product = backend.logits(&subject.tensor(&x).into(), Head::new(&there, 1))?;
            let floats = host
                .dequantize(&codes, DType::F32)?
                .flatten_all()?
                .to_vec1::<f32>()?;
            let w = Mat::new(rows, cols, |i, j| f64::from(floats[i * cols + j]));
            subject.close("product", &product, &x.times(&w.t()));
            Ok(())
        });
    }
}
