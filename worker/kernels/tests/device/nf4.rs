//! NF4 and the way back, bit for bit.

use candle_core::{DType, Device, Tensor};
use qlora_kernels::host::nf4;
use qlora_kernels::types::loss::Head;
use qlora_kernels::{Backend, Nf4Scales, Nf4Tensor, Result};

use crate::fixture::{close, elements, gpu, random, reference, values};

#[test]
fn nf4_is_dequantized_bit_identically() -> Result<()> {
    let (gpu, cpu) = (gpu(), reference());
    for (shape, double) in [
        ((33, 31), true),
        ((33, 31), false),
        ((1, 1), true),
        ((96, 320), true),
        ((7, 64), false),
    ] {
        for block in [32, 64, 96, 512] {
            let matrix = Tensor::from_vec(values(shape.0 * shape.1, 1), shape, &Device::Cpu)?;
            let (there, here) = (
                gpu.quantize(&matrix, block, double)?,
                cpu.quantize(&matrix, block, double)?,
            );
            close(
                &gpu.dequantize(&there, DType::BF16)?,
                &cpu.dequantize(&here, DType::BF16)?,
                0.0,
            );
        }
    }
    Ok(())
}

/// A scale is a product and a sum, each rounded: a GPU would make one operation of them. Only a few
/// scales in a million show that in bf16, so such are looked for.
#[test]
fn scales_of_nf4_are_rounded_twice() -> Result<()> {
    let (gpu, cpu, map) = (gpu(), reference(), nf4::dynamic_table());
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
        let wanted = cpu.dequantize(&matrix(&Device::Cpu)?, DType::BF16)?;
        assert_eq!(
            elements(&wanted)[0],
            half::bf16::from_f32(value * absmax + offset).to_f32()
        );
        close(
            &gpu.dequantize(&matrix(gpu.device())?, DType::BF16)?,
            &wanted,
            0.0,
        );
    }
    Ok(())
}

/// The emulated GPU does the work of another stream as late as events allow, and looks at what is
/// freed.
#[test]
fn a_prefetched_matrix_is_the_same() -> Result<()> {
    let (gpu, cpu) = (gpu(), reference());
    let floats = |seed| Tensor::from_vec(values(96 * 320, seed), (96, 320), &Device::Cpu);
    let matrix = |seed| gpu.quantize(&floats(seed)?, 64, true);
    let (first, second, third) = (matrix(1)?, matrix(2)?, matrix(3)?);
    let x = random((5, 320), 4)?.to_device(gpu.device())?.into();
    let wanted = [&first, &second].map(|m| {
        gpu.logits(
            &x,
            Head::new(&gpu.dequantize(m, DType::BF16).expect("bf16"), 1),
        )
    });
    for m in [&first, &second, &second, &third] {
        gpu.prefetch(m)?;
    }
    let found = [&first, &second].map(|m| gpu.logits(&x, Head::new(m, 1)));
    for (found, wanted) in found.into_iter().zip(wanted) {
        close(&found?, &wanted?, 0.0);
    }
    // The third is let go while it is still on its way.
    drop(third);
    let here = cpu.quantize(&floats(1)?, 64, true)?;
    close(
        &gpu.dequantize(&first, DType::BF16)?,
        &cpu.dequantize(&here, DType::BF16)?,
        0.0,
    );
    // And with the backend that writes it.
    drop((x, gpu));
    Ok(())
}

#[test]
fn nf4_is_quantized_bit_identically() -> Result<()> {
    let (gpu, cpu) = (gpu(), reference());
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
        let mut weights = [values(shape.0 * shape.1, 50), zeros].concat();
        weights.rotate_right(block);
        weights.truncate(shape.0 * shape.1);
        for dtype in [DType::BF16, DType::F32] {
            let matrix = Tensor::from_vec(weights.clone(), shape, &Device::Cpu)?.to_dtype(dtype)?;
            let (there, here) = (
                gpu.quantize(&matrix, block, double)?,
                cpu.quantize(&matrix, block, double)?,
            );
            let bytes = |m: &Nf4Tensor| m.packed().to_device(&Device::Cpu)?.to_vec1::<u8>();
            assert_eq!(bytes(&there)?, bytes(&here)?, "{shape:?} {dtype:?}");
            let parts = |m: &Nf4Tensor| match m.scales() {
                Nf4Scales::Nested {
                    codes,
                    absmax,
                    offset,
                } => Ok::<_, candle_core::Error>((
                    codes.to_vec1::<u8>()?,
                    absmax.to_vec1::<f32>()?,
                    *offset,
                )),
                Nf4Scales::Plain(absmax) => Ok((Vec::new(), absmax.to_vec1()?, 0.0)),
            };
            assert_eq!(parts(&there)?, parts(&here)?);
            assert_eq!(parts(&here)?.0.is_empty(), !double);
        }
    }
    Ok(())
}

/// Half way between two codes, and the closest values on both sides.
#[test]
fn a_midpoint_takes_the_lower_code_of_nf4() -> Result<()> {
    let mut weights: Vec<f32> = nf4::midpoints()
        .iter()
        .flat_map(|m| [m.next_down(), *m, m.next_up()])
        .collect();
    weights.extend([0.0, -0.0, 1.0, -1.0]);
    weights.resize(64, 0.5);
    let matrix = Tensor::from_vec(weights, (1, 64), &Device::Cpu)?;
    let codes = |backend: &dyn Backend| {
        let matrix = backend.quantize(&matrix, 64, false)?;
        matrix.packed().to_device(&Device::Cpu)?.to_vec1::<u8>()
    };
    let found = codes(&*gpu())?;
    assert_eq!(found, codes(&*reference())?);
    let nibbles: Vec<u8> = found
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .collect();
    let wanted: Vec<u8> = (0..15).flat_map(|i| [i, i, i + 1]).collect();
    assert_eq!(nibbles[..45], wanted);
    Ok(())
}
