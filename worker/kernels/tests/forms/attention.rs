//! Attention: windows, packed sequences, cached keys; in `f32` and in bf16.

use candle_core::Tensor;
use qlora_kernels::{AttentionSaved, AttentionShape, Result, Span};

use crate::fixture::{
    close, cpu, gradient_matches, in_bf16, packed, random, reference, relative, rounded, sequences,
};

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
