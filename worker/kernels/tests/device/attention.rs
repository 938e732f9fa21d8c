//! Heads that our kernels and cuDNN do not have, and sequences and scores that they do not take.

use candle_core::DType;
use qlora_kernels::types::forms::{Form, Operation};
use qlora_kernels::types::options::{AttentionOptions, WantedAttention};
use qlora_kernels::{AttentionShape, Backend, Result, Span};

use crate::fixture::{gpu_for, on, random, reference};

fn shape(head_dim: usize) -> AttentionShape {
    AttentionShape::new(4, 2, head_dim)
}

/// A GPU for sequences of up to 64 tokens.
fn wanting(wanted: WantedAttention, shape: AttentionShape) -> Result<std::sync::Arc<dyn Backend>> {
    gpu_for(AttentionOptions {
        shape,
        wanted,
        length: 64,
    })
}

/// Heads that there are no kernels for take the reference form, which the table names, or are
/// refused.
#[test]
fn heads_without_kernels_are_listed_or_refused() -> Result<()> {
    for head_dim in [8, 24, 40, 192] {
        let named = format!("heads of {head_dim}");
        for wanted in [WantedAttention::Fastest, WantedAttention::Repeatable] {
            let gpu = wanting(wanted, shape(head_dim))?;
            let form = gpu.forms().of(Operation::Attention).cloned();
            assert!(
                matches!(&form, Some(Form::Reference(why)) if why.contains(&named)),
                "{form:?}"
            );
        }
        for wanted in [WantedAttention::Flash, WantedAttention::Cudnn] {
            let fault = wanting(wanted, shape(head_dim))
                .err()
                .expect("a refusal")
                .to_string();
            assert!(fault.contains(&named), "{fault}");
        }
        // A backend that was opened for other heads does not fall back.
        let gpu = wanting(WantedAttention::Repeatable, shape(64))?;
        let (q, k) = (random((3, 4 * head_dim), 1)?, random((3, 2 * head_dim), 2)?);
        let [q, k] = on(gpu.device(), [&q, &k]);
        let sequences = gpu.sequences(&Span::packed(&[3]))?;
        let fault = gpu
            .attention_forward((&q, &k, &k), &shape(head_dim), &sequences)
            .expect_err("no kernel");
        assert!(fault.to_string().contains(&named), "{fault}");
    }
    Ok(())
}

/// Sequences are made for one backend.
#[test]
fn sequences_of_another_backend_are_refused() -> Result<()> {
    let (gpu, cpu) = (
        wanting(WantedAttention::Repeatable, shape(32))?,
        reference(),
    );
    let (q, k) = (random((3, 128), 1)?, random((3, 64), 2)?);
    let [q, k] = on(gpu.device(), [&q, &k]);
    let fault = gpu.attention_forward(
        (&q, &k, &k),
        &shape(32),
        &cpu.sequences(&Span::packed(&[3]))?,
    );
    assert!(
        fault
            .expect_err("other sequences")
            .to_string()
            .contains("another backend")
    );
    assert_eq!((gpu.dtype(), cpu.dtype()), (DType::BF16, DType::BF16));
    Ok(())
}

#[cfg(feature = "cudnn")]
#[test]
fn capped_scores_are_not_for_cudnn() -> Result<()> {
    let capped = AttentionShape {
        cap: Some(2.0),
        ..shape(32)
    };
    let fault = wanting(WantedAttention::Cudnn, capped)
        .err()
        .expect("a refusal");
    assert!(fault.to_string().contains("capped scores"), "{fault}");
    let chosen = wanting(WantedAttention::Fastest, capped)?.attention();
    let chosen = chosen.unwrap_or_default();
    assert!(
        chosen.starts_with("own kernels") && chosen.contains("capped scores"),
        "{chosen}"
    );
    Ok(())
}
