//! Norms, gated activations, rotary embedding, cross entropy, AdamW and NF4.

use candle_core::{DType, Device, Tensor};
use qlora_kernels::backend::host;
use qlora_kernels::types::adamw::{AdamWStep, Moments, Norm, Parameter};
use qlora_kernels::types::forms::Operation;
use qlora_kernels::types::loss::Head;
use qlora_kernels::{Activations, Backend, GateFunction, Result, RopeAngles, RopeTable, Span};

use crate::fixture::{
    close, cpu, gradient_matches, in_bf16, random, reference, relative, rounded, sequences,
};

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
fn nf4_forms_are_bit_identical() -> Result<()> {
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

/// What a form says of its input holds: of GGUF blocks and floats candle dequantizes, and the loss
/// is a composition.
#[test]
fn forms_that_depend_on_their_input_say_both() {
    let said = |backend: &dyn Backend, operation| {
        let forms = backend.forms();
        forms.of(operation).expect("a form").to_string()
    };
    for backend in in_bf16().map(|(_, backend)| backend).chain([cpu()]) {
        let dequantize = said(&*backend, Operation::Dequantize);
        assert!(
            dequantize.contains("NF4") && dequantize.contains("reference of GGUF blocks"),
            "{dequantize}"
        );
        let loss = said(&*backend, Operation::CrossEntropy);
        assert!(loss.contains("chunks of rows"), "{loss}");
    }
    let loss = said(&*cpu(), Operation::CrossEntropy);
    assert!(
        loss.starts_with("reference") && loss.contains("losses without gradients: f32 kernels"),
        "{loss}"
    );
}
