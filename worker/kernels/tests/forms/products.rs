//! Products in bf16: how each set of instructions packs matrices of every type, which instructions
//! there are, and rows that stay in bf16 between operations. No other backend has any of these; sums
//! of products and their gradients are in `operations/`.

use candle_core::{DType, Device, Tensor};
use qlora_kernels::backend::{host, on_instructions};
use qlora_kernels::{Activations, DropoutKey, GateFunction, Instructions, Matrix, Result, Term};

use crate::fixture::{close, cpu, in_bf16, on, random, reference, relative, rounded};

/// Both products of `w` on all instructions against the same bf16 values multiplied in `f32`.
fn products_agree(matrix: &dyn Matrix, m: usize) -> Result<()> {
    let (n, k) = matrix.shape();
    let dequantized = reference().dequantize(matrix, DType::F32)?;
    let (x, dy) = (random((m, k), 21)?, random((m, n), 22)?);
    let w = rounded(&dequantized)?;
    let (y, dx) = (rounded(&x)?.matmul(&w.t()?)?, rounded(&dy)?.matmul(&w)?);
    for (instructions, cpu) in in_bf16() {
        let (x, dy) = (Activations::from(&x), Activations::from(&dy));
        let term = |x| {
            [Term {
                x,
                w: matrix,
                scale: 1.0,
            }]
        };
        let (fast_y, fast_dx) = (
            cpu.matmul_forward(&term(&x), None)?,
            cpu.matmul_backward(&term(&dy), None)?,
        );
        assert_eq!((fast_y.dims(), fast_dx.dims()), (y.dims(), dx.dims()));
        // Results that go on are the same, rounded once.
        close(
            cpu.matmul_forward_on(&term(&x))?.tensor()?,
            &rounded(&fast_y)?,
            0.0,
        );
        close(
            cpu.matmul_backward_on(&term(&dy))?.tensor()?,
            &rounded(&fast_dx)?,
            0.0,
        );
        assert!(
            relative(&fast_y, &y) < 2e-6,
            "{instructions:?} forward {m} x {n} x {k}: {}",
            relative(&fast_y, &y)
        );
        assert!(
            relative(&fast_dx, &dx) < 2e-6,
            "{instructions:?} backward {m} x {n} x {k}: {}",
            relative(&fast_dx, &dx)
        );
    }
    Ok(())
}

#[test]
fn bf16_products_agree_with_f32_products_of_the_rounded_values() -> Result<()> {
    for (m, n, k) in [
        (1, 1, 1),
        (33, 65, 97),
        (7, 100, 96),
        (64, 32, 64),
        (40, 70, 576),
    ] {
        let w = random((n, k), 23)?;
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let w = w.to_dtype(dtype)?;
            products_agree(&w, m)?;
        }
        for double in [false, true] {
            let w = host().quantize(&random((n, k), 24)?, 64, double)?;
            products_agree(&w, m)?;
        }
    }
    Ok(())
}

/// bf16 rows of `x`, as a product would give them: a product with one is exact.
fn rows_of(x: &Tensor) -> Result<Activations> {
    let one = Tensor::eye(x.dim(1)?, DType::F32, &Device::Cpu)?;
    on(Instructions::best()).matmul_forward_on(&[Term {
        x: &x.into(),
        w: &one,
        scale: 1.0,
    }])
}

/// What is kept in bf16 between products is what `f32` gives for the same inputs, rounded once.
#[test]
fn operations_on_bf16_rows_agree_with_f32() -> Result<()> {
    let cpu = on(Instructions::best());
    for (m, d) in [(1, 1), (5, 31), (33, 97), (40, 1100)] {
        let of = |seed| rounded(&random((m, d), seed)?);
        let (g, e, dh, w) = (of(51)?, of(52)?, of(53)?, random((1, d), 54)?.squeeze(0)?);
        let (rg, re, rdh) = (rows_of(&g)?, rows_of(&e)?, rows_of(&dh)?);
        close(rg.tensor()?, &g, 0.0);
        let h = cpu.glu_forward(GateFunction::Silu, &(&g).into(), &(&e).into())?;
        close(
            cpu.glu_forward(GateFunction::Silu, &rg, &re)?.tensor()?,
            &rounded(h.tensor()?)?,
            0.0,
        );
        let (dg, de) = cpu.glu_backward(
            GateFunction::Silu,
            &(&dh).into(),
            &(&g).into(),
            &(&e).into(),
        )?;
        let (rdg, rde) = cpu.glu_backward(GateFunction::Silu, &rdh, &rg, &re)?;
        close(rdg.tensor()?, &rounded(dg.tensor()?)?, 0.0);
        close(rde.tensor()?, &rounded(de.tensor()?)?, 0.0);
        let (y, rstd) = cpu.rms_norm_forward(&g, (&w).into(), 1e-5)?;
        let (ry, rrstd) = cpu.rms_norm_forward_on(&g, (&w).into(), 1e-5)?;
        close(ry.tensor()?, &rounded(&y)?, 0.0);
        close(&rrstd, &rstd, 0.0);
        for first_token in [0, 3] {
            let key = DropoutKey {
                seed: 5,
                step: 2,
                projection: 9,
                first_token,
                probability: 0.3,
            };
            let dropped = cpu.dropout(&(&g).into(), &key)?;
            close(
                cpu.dropout(&rg, &key)?.tensor()?,
                &rounded(dropped.tensor()?)?,
                0.0,
            );
        }
    }
    Ok(())
}

/// A gradient of weights: activations times activations, whichever form they are in.
#[test]
fn activations_are_matrices_too() -> Result<()> {
    let (tokens, n, k) = (45, 16, 70);
    let (u, x) = (
        rounded(&random((n, tokens), 55)?)?,
        rounded(&random((tokens, k), 56)?)?,
    );
    let wanted = u.matmul(&x)?;
    for (how, cpu) in in_bf16() {
        for x in [Activations::from(&x), rows_of(&x)?] {
            for scale in [1.0, 2.0] {
                let found = cpu.matmul_backward(
                    &[Term {
                        x: &(&u).into(),
                        w: &x,
                        scale,
                    }],
                    None,
                )?;
                assert!(relative(&found, &(&wanted * scale)?) < 2e-6, "{how:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn instructions_reach_a_rate_from_registers_or_are_refused() {
    let missing = [Instructions::Amx, Instructions::Avx2, Instructions::Neon]
        .into_iter()
        .find(|missing| Instructions::all().all(|have| have != *missing))
        .expect("no CPU is of two architectures");
    let fault = on_instructions(missing)
        .err()
        .expect("no such instructions");
    assert!(fault.to_string().contains(missing.name()), "{fault}");
    for (instructions, cpu) in in_bf16() {
        let rate = cpu.peak_operations_per_second();
        assert_eq!(rate.is_none(), instructions == Instructions::Portable);
        assert!(
            rate.is_none_or(|rate| rate > 1e9),
            "{instructions:?}: {rate:?}"
        );
    }
    assert_eq!(cpu().peak_operations_per_second(), None);
}

#[test]
fn no_rows_give_no_rows() -> Result<()> {
    let w = random((33, 70), 71)?;
    for (instructions, cpu) in in_bf16() {
        let rows = |width: usize| Tensor::zeros((0, width), DType::F32, &Device::Cpu);
        let (x, dy) = (rows(70)?.into(), rows(33)?.into());
        let term = |x| {
            [Term {
                x,
                w: &w,
                scale: 1.0,
            }]
        };
        let (y, dx) = (
            cpu.matmul_forward(&term(&x), None)?,
            cpu.matmul_backward(&term(&dy), None)?,
        );
        assert_eq!(
            (y.dims(), dx.dims()),
            (&[0, 33][..], &[0, 70][..]),
            "{instructions:?}"
        );
    }
    Ok(())
}
