//! Every fast form against its reference form, and every backward pass against numerical
//! differences of the forward pass, at sizes that are multiples of nothing.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use qlora_kernels::backend::{host, on_instructions};
use qlora_kernels::types::adamw::{AdamWStep, Moments, Norm, Parameter};
use qlora_kernels::types::loss::Head;
use qlora_kernels::types::options::{Compute, Options};
use qlora_kernels::{
    Activations, AttentionSaved, AttentionShape, Backend, DropoutKey, GateFunction, Instructions,
    Matrix, Result, RopeAngles, RopeTable, Sequences, Span, Term, backend,
};

/// The CPU with products in `f32`.
fn cpu() -> Arc<dyn Backend> {
    backend::open(
        &Device::Cpu,
        &Options {
            compute: Compute::F32,
            ..Options::default()
        },
    )
    .expect("a CPU")
}

fn reference() -> Arc<dyn Backend> {
    backend::reference(&Device::Cpu, DType::F32)
}

/// The CPU with products in bf16, on `instructions`.
fn on(instructions: Instructions) -> Arc<dyn Backend> {
    on_instructions(instructions).expect("what the CPU has")
}

/// The CPU with products in bf16, on everything that it has.
fn in_bf16() -> impl Iterator<Item = (Instructions, Arc<dyn Backend>)> {
    Instructions::all().map(|instructions| (instructions, on(instructions)))
}

/// Seeded values in about -1 to 1.
fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(next).collect()
}

fn random(shape: (usize, usize), seed: u64) -> Result<Tensor> {
    Tensor::from_vec(values(shape.0 * shape.1, seed), shape, &Device::Cpu)
}

fn distance(a: &Tensor, b: &Tensor) -> Result<f32> {
    (a.to_dtype(DType::F32)? - b.to_dtype(DType::F32)?)?
        .abs()?
        .flatten_all()?
        .max(0)?
        .to_scalar()
}

#[track_caller]
fn close(a: &Tensor, b: &Tensor, tolerance: f32) {
    assert_eq!(a.dims(), b.dims());
    let d = distance(a, b).expect("comparable tensors");
    assert!(d <= tolerance, "largest difference {d} above {tolerance}");
}

/// The derivative of sum(f(x) * dy) by central differences in f64 sums, along `direction`.
fn slope(
    f: impl Fn(&Tensor) -> Result<Tensor>,
    x: &Tensor,
    direction: &Tensor,
    dy: &Tensor,
) -> Result<f64> {
    let h = 1e-2;
    let at = |sign: f64| -> Result<f64> {
        let y = (f(&(x + (direction * (sign * h))?)?)? * dy)?.to_dtype(DType::F64)?;
        y.sum_all()?.to_scalar::<f64>()
    };
    Ok((at(1.0)? - at(-1.0)?) / (2.0 * h))
}

#[track_caller]
fn gradient_matches(f: impl Fn(&Tensor) -> Result<Tensor>, x: &Tensor, grad: &Tensor, dy: &Tensor) {
    let (m, n) = x.dims2().expect("a matrix");
    for seed in 100..104 {
        let direction = random((m, n), seed).expect("a direction");
        let numeric = slope(&f, x, &direction, dy).expect("a slope");
        let product =
            (grad * &direction).and_then(|p| p.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>());
        let analytic = product.expect("a slope");
        let tolerance = 2e-3 * (1.0 + numeric.abs());
        assert!(
            (numeric - analytic).abs() < tolerance,
            "numeric {numeric}, analytic {analytic}"
        );
    }
}

#[test]
fn rms_norm_forms_agree_and_its_gradient_is_the_slope() -> Result<()> {
    let (x, dy) = (random((7, 53), 1)?, random((7, 53), 2)?);
    let w = random((1, 53), 3)?.flatten_all()?;
    let (y, rstd) = cpu().rms_norm_forward(&x, (&w).into(), 1e-5)?;
    let (y2, rstd2) = reference().rms_norm_forward(&x, (&w).into(), 1e-5)?;
    close(&y, &y2, 1e-5);
    close(&rstd, &rstd2, 1e-5);
    let dx = cpu().rms_norm_backward(&dy, &x, (&w).into(), &rstd, None)?;
    close(
        &dx,
        &reference().rms_norm_backward(&dy, &x, (&w).into(), &rstd, None)?,
        1e-5,
    );
    gradient_matches(
        |x| Ok(cpu().rms_norm_forward(x, (&w).into(), 1e-5)?.0),
        &x,
        &dx,
        &dy,
    );
    Ok(())
}

#[test]
fn swiglu_forms_agree_and_its_gradient_is_the_slope() -> Result<()> {
    let (g, e, dh) = (
        (random((5, 37), 4)? * 6.0)?,
        random((5, 37), 5)?,
        random((5, 37), 6)?,
    );
    let (ga, ea) = (Activations::from(&g), Activations::from(&e));
    close(
        cpu().glu_forward(GateFunction::Silu, &ga, &ea)?.tensor()?,
        reference()
            .glu_forward(GateFunction::Silu, &ga, &ea)?
            .tensor()?,
        1e-5,
    );
    let (dg, de) = cpu().glu_backward(GateFunction::Silu, &(&dh).into(), &ga, &ea)?;
    let (dg2, de2) = reference().glu_backward(GateFunction::Silu, &(&dh).into(), &ga, &ea)?;
    let (dg, de) = (dg.tensor()?, de.tensor()?);
    close(dg, dg2.tensor()?, 1e-5);
    close(de, de2.tensor()?, 1e-5);
    let forward = |g: &Tensor, e: &Tensor| {
        Ok(cpu()
            .glu_forward(GateFunction::Silu, &g.into(), &e.into())?
            .tensor()?
            .clone())
    };
    gradient_matches(|g| forward(g, &e), &g, dg, &dh);
    gradient_matches(|e| forward(&g, e), &e, de, &dh);
    Ok(())
}

#[test]
fn rope_forms_agree_and_back_undoes_forward() -> Result<()> {
    let inv_freq: Vec<f32> = (0..6)
        .map(|i| 10_000f32.powf(-f32::from(i as u8) / 6.0))
        .collect();
    let angles = RopeAngles {
        head_dim: 2 * inv_freq.len(),
        inv_freq: inv_freq.to_vec(),
        factor: 1.0,
    };
    let table = RopeTable::new(&angles, 40, &Device::Cpu)?;
    let positions = [0, 1, 2, 0, 1, 39];
    let mut spans = Span::packed(&[3, 2]);
    spans.push(Span { q: 5..6, k: 5..45 });
    let rows = sequences(&spans);
    assert_eq!(rows.positions(), positions);
    let x = random((6, 36), 7)?;
    let y = cpu().rope_forward(&table, &x, &rows)?;
    close(&y, &reference().rope_forward(&table, &x, &rows)?, 1e-5);
    close(&cpu().rope_backward(&table, &y, &rows)?, &x, 1e-5);
    close(&reference().rope_backward(&table, &y, &rows)?, &x, 1e-5);
    Ok(())
}

fn sequences(spans: &[Span]) -> Sequences {
    cpu().sequences(spans).expect("sequences")
}

fn packed(lengths: &[usize]) -> Sequences {
    sequences(&Span::packed(lengths))
}

fn attention_case(window: Option<usize>, lengths: &[usize]) -> Result<()> {
    let shape = AttentionShape {
        window,
        ..AttentionShape::new(6, 2, 10)
    };
    let spans = packed(lengths);
    let m: usize = lengths.iter().sum();
    let (q, k, v) = (
        (random((m, 60), 8)? * 3.0)?,
        random((m, 20), 9)?,
        random((m, 20), 10)?,
    );
    let d_o = random((m, 60), 11)?;
    let (o, lse) = cpu().attention_forward((&q, &k, &v), &shape, &spans)?;
    let (o2, lse2) = reference().attention_forward((&q, &k, &v), &shape, &spans)?;
    close(&o, &o2, 1e-5);
    close(&lse, &lse2, 1e-5);
    let saved = AttentionSaved {
        q: &q,
        k: &k,
        v: &v,
        o: &o,
        lse: &lse,
    };
    let (dq, dk, dv) = cpu().attention_backward(&d_o, &saved, &shape, &spans)?;
    let (dq2, dk2, dv2) = reference().attention_backward(&d_o, &saved, &shape, &spans)?;
    close(&dq, &dq2, 2e-5);
    close(&dk, &dk2, 2e-5);
    close(&dv, &dv2, 2e-5);
    gradient_matches(
        |q| Ok(cpu().attention_forward((q, &k, &v), &shape, &spans)?.0),
        &q,
        &dq,
        &d_o,
    );
    gradient_matches(
        |k| Ok(cpu().attention_forward((&q, k, &v), &shape, &spans)?.0),
        &k,
        &dk,
        &d_o,
    );
    gradient_matches(
        |v| Ok(cpu().attention_forward((&q, &k, v), &shape, &spans)?.0),
        &v,
        &dv,
        &d_o,
    );
    Ok(())
}

#[test]
fn attention_forms_agree_and_gradients_are_slopes() -> Result<()> {
    attention_case(None, &[1, 7, 131, 2])
}

#[test]
fn attention_with_a_sliding_window_too() -> Result<()> {
    attention_case(Some(5), &[3, 70])
}

#[test]
fn packed_sequences_do_not_see_each_other() -> Result<()> {
    let shape = AttentionShape::new(2, 1, 8);
    let (q, k, v) = (
        random((9, 16), 20)?,
        random((9, 8), 21)?,
        random((9, 8), 22)?,
    );
    let (both, _) = cpu().attention_forward((&q, &k, &v), &shape, &packed(&[4, 5]))?;
    let part = |t: &Tensor| t.narrow(0, 4, 5)?.contiguous();
    let (alone, _) =
        cpu().attention_forward((&part(&q)?, &part(&k)?, &part(&v)?), &shape, &packed(&[5]))?;
    close(&both.narrow(0, 4, 5)?.contiguous()?, &alone, 0.0);
    Ok(())
}

#[test]
fn decoding_with_cached_keys_equals_the_whole_pass() -> Result<()> {
    let shape = AttentionShape {
        window: Some(6),
        ..AttentionShape::new(2, 1, 8)
    };
    let (q, k, v) = (
        random((9, 16), 23)?,
        random((9, 8), 24)?,
        random((9, 8), 25)?,
    );
    let (whole, _) = cpu().attention_forward((&q, &k, &v), &shape, &packed(&[9]))?;
    let last = q.narrow(0, 8, 1)?.contiguous()?;
    let (step, _) = cpu().attention_forward(
        (&last, &k, &v),
        &shape,
        &sequences(&[Span { q: 0..1, k: 0..9 }]),
    )?;
    close(&whole.narrow(0, 8, 1)?.contiguous()?, &step, 1e-6);
    Ok(())
}

#[test]
fn cross_entropy_in_chunks_agrees_with_whole_logits() -> Result<()> {
    let (rows, d, v) = (301, 11, 97);
    let (hidden, head) = ((random((rows, d), 12)? * 4.0)?, random((v, d), 13)?);
    let targets: Vec<u32> = (0..rows as u32).map(|i| (i * 31) % v as u32).collect();
    let whole = hidden.matmul(&head.t()?)?;
    let (sum, dlogits) = reference().cross_entropy_of_logits(&whole, None, &targets, Some(0.25))?;
    let sum = sum.value()?;
    let result = cpu()
        .cross_entropy(
            &hidden,
            Head::new(&head, 256),
            &targets,
            Some(0.25),
            &|| true,
        )?
        .expect("nobody stops it");
    let found = result.sum.value()?;
    assert!((found - sum).abs() < 1e-2, "{found} and {sum}");
    let wanted = dlogits.expect("a gradient").tensor()?.matmul(&head)?;
    close(&result.grad.expect("a gradient"), &wanted, 1e-5);
    let alone = cpu()
        .cross_entropy(&hidden, Head::new(&head, 256), &targets, None, &|| true)?
        .expect("nobody stops it");
    assert!((alone.sum.value()? - found).abs() < 1e-3 && alone.grad.is_none());
    let (hidden, head) = (rounded(&hidden)?, rounded(&head)?);
    for (how, cpu) in in_bf16() {
        let fast = cpu
            .cross_entropy(
                &hidden,
                Head::new(&head, 256),
                &targets,
                Some(0.25),
                &|| true,
            )?
            .expect("nobody stops it");
        let found = fast.sum.value()?;
        assert!(
            (found - sum).abs() < 1e-2 * sum,
            "{how:?}: {found} and {sum}"
        );
        assert!(
            relative(&fast.grad.expect("a gradient"), &wanted) < 2e-2,
            "{how:?}"
        );
        let alone = cpu
            .cross_entropy(&hidden, Head::new(&head, 256), &targets, None, &|| true)?
            .expect("nobody stops it");
        assert!((alone.sum.value()? - found).abs() < 1e-6 && alone.grad.is_none());
    }
    Ok(())
}

#[test]
fn adamw_forms_agree() -> Result<()> {
    let (value, first, second) = (
        random((9, 5), 14)?,
        random((9, 5), 15)?,
        random((9, 5), 16)?.abs()?,
    );
    let rule = AdamWStep {
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.1,
        step: 3,
    };
    let gradient = random((9, 5), 17)?;
    let moments = Moments::Full { first, second };
    let parameter = Parameter {
        value: &value,
        moments: &moments,
        gradient: &gradient,
        rule: &rule,
    };
    // Half of the gradient's norm is left.
    let norm = Norm::Known(1.0);
    let update = |backend: &dyn Backend| {
        Ok::<_, candle_core::Error>(backend.adamw(&[parameter], &norm, 0.5)?.remove(0))
    };
    let (fast, slow) = (update(&*cpu())?, update(&*reference())?);
    close(&fast.0, &slow.0, 1e-6);
    let (
        Moments::Full {
            first: m1,
            second: v1,
        },
        Moments::Full {
            first: m2,
            second: v2,
        },
    ) = (fast.1, slow.1)
    else {
        panic!("moments changed their form")
    };
    close(&m1, &m2, 1e-6);
    close(&v1, &v2, 1e-6);
    Ok(())
}

#[test]
fn nf4_forms_agree_to_the_bit() -> Result<()> {
    for (shape, double) in [((33, 31), false), ((120, 320), true), ((3, 1), true)] {
        let original = random(shape, 18)?;
        let matrix = host().quantize(&original, 64, double)?;
        close(
            &host().dequantize(&matrix, DType::F32)?,
            &reference().dequantize(&matrix, DType::F32)?,
            0.0,
        );
        close(&host().dequantize(&matrix, DType::F32)?, &original, 0.2);
    }
    Ok(())
}

/// Relative distance of two matrices: largest difference over largest value.
fn relative(a: &Tensor, b: &Tensor) -> f32 {
    let top = b
        .abs()
        .and_then(|b| b.flatten_all()?.max(0)?.to_scalar::<f32>())
        .expect("a largest value");
    distance(a, b).expect("comparable tensors") / top
}

fn rounded(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::BF16)?.to_dtype(DType::F32)
}

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
    assert!(Instructions::all().any(|i| i == Instructions::Portable));
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

/// A sum of several products onto a base is what the products give one by one.
#[test]
fn sums_of_products_agree() -> Result<()> {
    let (m, n) = (37, 53);
    let base = random((m, n), 31)?;
    let widths = [70, 16, 33];
    let w: Vec<Tensor> = (0..3)
        .map(|i| random((n, widths[i]), 32 + i as u64))
        .collect::<Result<_>>()?;
    let x: Vec<Activations> = (0..3)
        .map(|i| Ok(random((m, widths[i]), 35 + i as u64)?.into()))
        .collect::<Result<_>>()?;
    let scales = [1.0, 0.5, 2.0];
    let forward: Vec<Term<'_>> = (0..3)
        .map(|i| Term {
            x: &x[i],
            w: &w[i],
            scale: scales[i],
        })
        .collect();
    let wanted = cpu().matmul_forward(&forward, Some(&base))?;
    let turned: Vec<Tensor> = w
        .iter()
        .map(|w| w.t()?.contiguous())
        .collect::<Result<_>>()?;
    let back: Vec<Term<'_>> = (0..3)
        .map(|i| Term {
            x: &x[i],
            w: &turned[i],
            scale: scales[i],
        })
        .collect();
    close(&cpu().matmul_backward(&back, Some(&base))?, &wanted, 1e-5);
    for (how, cpu) in in_bf16() {
        assert!(
            relative(&cpu.matmul_forward(&forward, Some(&base))?, &wanted) < 4e-3,
            "{how:?}"
        );
        assert!(
            relative(&cpu.matmul_backward(&back, Some(&base))?, &wanted) < 4e-3,
            "{how:?}"
        );
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

/// Attention in bf16 on all instructions against the reference on the same rounded values.
fn bf16_attention_case(window: Option<usize>, head_dim: usize, lengths: &[usize]) -> Result<()> {
    let shape = AttentionShape {
        window,
        ..AttentionShape::new(6, 2, head_dim)
    };
    let spans = packed(lengths);
    let m: usize = lengths.iter().sum();
    let of = |heads: usize, seed| rounded(&random((m, heads * head_dim), seed)?);
    let (q, k, v, d_o) = (of(6, 41)?, of(2, 42)?, of(2, 43)?, of(6, 44)?);
    let (o, lse) = reference().attention_forward((&q, &k, &v), &shape, &spans)?;
    let saved = AttentionSaved {
        q: &q,
        k: &k,
        v: &v,
        o: &o,
        lse: &lse,
    };
    let (dq, dk, dv) = reference().attention_backward(&d_o, &saved, &shape, &spans)?;
    for (how, cpu) in in_bf16() {
        let (fast_o, fast_lse) = cpu.attention_forward((&q, &k, &v), &shape, &spans)?;
        let (fast_dq, fast_dk, fast_dv) = cpu.attention_backward(&d_o, &saved, &shape, &spans)?;
        close(&fast_lse, &lse, 5e-3);
        for (name, fast, slow) in [
            ("o", &fast_o, &o),
            ("dq", &fast_dq, &dq),
            ("dk", &fast_dk, &dk),
            ("dv", &fast_dv, &dv),
        ] {
            assert!(
                relative(fast, slow) < 8e-3,
                "{how:?} {name}: {}",
                relative(fast, slow)
            );
        }
    }
    Ok(())
}

#[test]
fn bf16_attention_agrees_with_the_reference() -> Result<()> {
    bf16_attention_case(None, 10, &[1, 7, 131, 2])?;
    bf16_attention_case(None, 64, &[33, 300])?;
    bf16_attention_case(Some(37), 48, &[3, 170])?;
    bf16_attention_case(Some(2), 32, &[40])
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
