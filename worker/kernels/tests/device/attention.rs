//! Our kernels' attention for every chip, cuDNN's, and heads that neither has.

use std::process::Command;

use candle_core::{DType, Device};
use qlora_kernels::types::attention::CUDA_HEADS;
use qlora_kernels::types::forms::{Form, Operation};
use qlora_kernels::types::options::{AttentionOptions, WantedAttention};
use qlora_kernels::{AttentionSaved, AttentionShape, Backend, Result, Span};
use qlora_testkit::skip;

use crate::fixture::{close, gpu_for, on, random, reference};

fn shape(head_dim: usize, window: Option<usize>) -> AttentionShape {
    AttentionShape {
        window,
        ..AttentionShape::new(4, 2, head_dim)
    }
}

/// A GPU for sequences of up to 64 tokens.
fn wanting(wanted: WantedAttention, shape: AttentionShape) -> Result<std::sync::Arc<dyn Backend>> {
    gpu_for(AttentionOptions {
        shape,
        wanted,
        length: 64,
    })
}

fn attention_agrees(head_dim: usize, window: Option<usize>, spans: &[Span]) -> Result<()> {
    let gpu = wanting(WantedAttention::Repeatable, shape(head_dim, window))?;
    attention_agrees_on(&*gpu, &shape(head_dim, window), spans).map(drop)
}

/// Gives the shape of the sums, by which our kernels and cuDNN can be told apart.
fn attention_agrees_on(
    gpu: &dyn Backend,
    shape: &AttentionShape,
    spans: &[Span],
) -> Result<(usize, usize)> {
    let (cpu, head_dim) = (reference(), shape.head_dim);
    let (m, keys) = (
        spans.iter().map(|s| s.q.len()).sum(),
        spans.iter().map(|s| s.k.len()).sum(),
    );
    let (q, k, v) = (
        random((m, 4 * head_dim), 1)?,
        random((keys, 2 * head_dim), 2)?,
        random((keys, 2 * head_dim), 3)?,
    );
    let d_o = random((m, 4 * head_dim), 4)?;
    let [gq, gk, gv, gd] = on(gpu.device(), [&q, &k, &v, &d_o]);
    let (there, here) = (gpu.sequences(spans)?, cpu.sequences(spans)?);
    let (o, lse) = gpu.attention_forward((&gq, &gk, &gv), shape, &there)?;
    let (wanted, wanted_lse) = cpu.attention_forward((&q, &k, &v), shape, &here)?;
    close(&o, &wanted, 1.0);
    let by_head = lse.to_device(&Device::Cpu)?;
    close(
        &if by_head.dims() == wanted_lse.dims() {
            by_head
        } else {
            by_head.t()?
        },
        &wanted_lse,
        0.05,
    );
    let saved = AttentionSaved {
        q: &gq,
        k: &gk,
        v: &gv,
        o: &o,
        lse: &lse,
    };
    let (dq, dk, dv) = gpu.attention_backward(&gd, &saved, shape, &there)?;
    let saved = AttentionSaved {
        q: &q,
        k: &k,
        v: &v,
        o: &wanted,
        lse: &wanted_lse,
    };
    let (wanted_dq, wanted_dk, wanted_dv) = cpu.attention_backward(&d_o, &saved, shape, &here)?;
    // cuDNN, whose sums lie token by token, rounds more than our kernels do; and what is rounded of O
    // adds up over a head in dS, most over the largest.
    let steps = if lse.dims() != wanted_lse.dims() {
        2.0
    } else if head_dim > 128 {
        2.5
    } else {
        1.5
    };
    close(&dq, &wanted_dq, steps);
    close(&dk, &wanted_dk, steps);
    close(&dv, &wanted_dv, steps);
    lse.dims2()
}

/// Heads that there are no kernels for take the reference form, which the table names, or are
/// refused.
#[test]
fn heads_without_kernels_are_listed_or_refused() -> Result<()> {
    for head_dim in [8, 24, 40, 192] {
        let named = format!("heads of {head_dim}");
        for wanted in [WantedAttention::Fastest, WantedAttention::Repeatable] {
            let gpu = wanting(wanted, shape(head_dim, None))?;
            let form = gpu.forms().of(Operation::Attention).cloned();
            assert!(
                matches!(&form, Some(Form::Reference(why)) if why.contains(&named)),
                "{form:?}"
            );
        }
        for wanted in [WantedAttention::Flash, WantedAttention::Cudnn] {
            let fault = wanting(wanted, shape(head_dim, None))
                .err()
                .expect("a refusal")
                .to_string();
            assert!(fault.contains(&named), "{fault}");
        }
        // A backend that was opened for other heads does not fall back.
        let gpu = wanting(WantedAttention::Repeatable, shape(64, None))?;
        let (q, k) = (random((3, 4 * head_dim), 1)?, random((3, 2 * head_dim), 2)?);
        let [q, k] = on(gpu.device(), [&q, &k]);
        let sequences = gpu.sequences(&Span::packed(&[3]))?;
        let fault = gpu
            .attention_forward((&q, &k, &k), &shape(head_dim, None), &sequences)
            .expect_err("no kernel");
        assert!(fault.to_string().contains(&named), "{fault}");
    }
    Ok(())
}

/// Sequences are made for one backend.
#[test]
fn sequences_of_another_backend_are_refused() -> Result<()> {
    let (gpu, cpu) = (
        wanting(WantedAttention::Repeatable, shape(32, None))?,
        reference(),
    );
    let (q, k) = (random((3, 128), 1)?, random((3, 64), 2)?);
    let [q, k] = on(gpu.device(), [&q, &k]);
    let fault = gpu.attention_forward(
        (&q, &k, &k),
        &shape(32, None),
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

#[test]
fn attention_agrees_for_every_size_of_head() -> Result<()> {
    for head_dim in CUDA_HEADS {
        attention_agrees(head_dim, None, &Span::packed(&[1, 67, 30]))?;
    }
    Ok(())
}

/// Caps that most scores feel. On Hopper these are the kernels of other chips.
#[test]
fn attention_under_a_cap_agrees() -> Result<()> {
    for head_dim in CUDA_HEADS {
        for window in [None, Some(9)] {
            let shape = AttentionShape {
                scale: 0.5,
                cap: Some(1.5),
                ..shape(head_dim, window)
            };
            for wanted in [WantedAttention::Repeatable, WantedAttention::Flash] {
                let gpu = wanting(wanted, shape)?;
                attention_agrees_on(&*gpu, &shape, &Span::packed(&[1, 67, 30]))?;
            }
        }
    }
    Ok(())
}

/// A block has half a tile of such heads: tiles whose second half is empty, short and whole, with
/// keys from before and a window that begins in either half.
#[test]
fn attention_of_large_heads_agrees() -> Result<()> {
    for lengths in [&[64][..], &[65, 128], &[201]] {
        attention_agrees(256, None, &Span::packed(lengths))?;
        attention_agrees(256, Some(70), &Span::packed(lengths))?;
    }
    attention_agrees(256, None, &[Span { q: 0..5, k: 0..90 }])?;
    let span = Span {
        q: 0..70,
        k: 0..171,
    };
    attention_agrees(256, Some(40), &[span])
}

/// The window of a call is that of its layer, whatever the backend was opened with.
#[test]
fn layers_of_one_model_have_windows_of_their_own() -> Result<()> {
    let packed = Span::packed(&[150, 3]);
    for (opened, head_dim) in [(None, 64), (Some(9), 64), (Some(9), 32), (Some(9), 256)] {
        let gpu = wanting(WantedAttention::Repeatable, shape(head_dim, opened))?;
        for window in [None, Some(9), Some(70)] {
            attention_agrees_on(&*gpu, &shape(head_dim, window), &packed)?;
        }
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
        return skip("it takes the emulated GPU");
    }
    // Ampere's and, with 99 KiB of shared memory, Ada's.
    for capability in ["80", "89"] {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args([
            "--exact",
            "attention::attention_agrees_for_every_size_of_head",
            "attention::attention_over_long_sequences_agrees",
        ]);
        command.args([
            "attention::attention_with_a_window_agrees",
            "attention::attention_with_keys_from_before_agrees",
            "attention::attention_of_large_heads_agrees",
            "attention::attention_under_a_cap_agrees",
        ]);
        let output = command
            .env("QLORA_EMULATED_CAPABILITY", capability)
            .output()
            .expect("this program");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("6 passed"),
            "{capability}: {said}"
        );
    }
}

#[test]
fn attention_with_keys_from_before_agrees() -> Result<()> {
    for head_dim in [32, 64, 128] {
        attention_agrees(head_dim, None, &[Span { q: 0..5, k: 0..90 }])?;
        attention_agrees(
            head_dim,
            Some(40),
            &[Span {
                q: 0..70,
                k: 0..171,
            }],
        )?;
    }
    Ok(())
}

#[cfg(feature = "cudnn")]
#[test]
fn attention_by_cudnn_agrees_once_it_is_chosen() -> Result<()> {
    let packed = Span::packed(&[1, 67, 30]);
    for head_dim in [32, 64, 128] {
        let shape = shape(head_dim, None);
        let gpu = wanting(WantedAttention::Cudnn, shape)?;
        let chosen = gpu.attention().unwrap_or_default();
        assert!(
            chosen.starts_with("cuDNN") && !chosen.contains("time"),
            "{chosen}"
        );
        assert_eq!(attention_agrees_on(&*gpu, &shape, &packed)?, (98, 4));
        // A longest sequence of a power of two, and of one token more.
        assert_eq!(
            attention_agrees_on(&*gpu, &shape, &Span::packed(&[64]))?,
            (64, 4)
        );
        assert_eq!(
            attention_agrees_on(&*gpu, &shape, &Span::packed(&[65, 3]))?,
            (68, 4)
        );
        // Keys from before are no whole sequences.
        assert_eq!(
            attention_agrees_on(&*gpu, &shape, &[Span { q: 0..5, k: 0..90 }])?,
            (4, 5)
        );
        // What another backend chose does not matter.
        let own = wanting(WantedAttention::Repeatable, shape)?;
        assert!(
            own.attention()
                .unwrap_or_default()
                .starts_with("own kernels")
        );
        assert_eq!(attention_agrees_on(&*own, &shape, &packed)?, (4, 98));
        assert_eq!(attention_agrees_on(&*gpu, &shape, &packed)?, (98, 4));
    }
    let gpu = wanting(WantedAttention::Fastest, shape(32, None))?;
    let (chosen, used) = (
        gpu.attention().unwrap_or_default(),
        attention_agrees_on(&*gpu, &shape(32, None), &packed)?,
    );
    assert_eq!(
        chosen.contains("of our kernels' time"),
        used == (98, 4),
        "{chosen}"
    );
    // A scale of its own.
    let scaled = AttentionShape {
        scale: 0.5,
        ..shape(32, None)
    };
    let gpu = wanting(WantedAttention::Cudnn, scaled)?;
    assert_eq!(attention_agrees_on(&*gpu, &scaled, &packed)?, (98, 4));
    // Windows that are left at once (with one of 1 all gradients of scores are zero), and of all
    // but a few tokens.
    for window in [2, 9, 64] {
        let shape = shape(32, Some(window));
        let gpu = wanting(WantedAttention::Cudnn, shape)?;
        assert_eq!(attention_agrees_on(&*gpu, &shape, &packed)?, (98, 4));
    }
    Ok(())
}

/// cuDNN computes the layers that it was tried for: those with a window only where the backend was
/// opened with one.
#[cfg(feature = "cudnn")]
#[test]
fn cudnn_takes_the_window_of_each_layer() -> Result<()> {
    let packed = Span::packed(&[1, 67, 30]);
    let gpu = wanting(WantedAttention::Cudnn, shape(32, Some(9)))?;
    for window in [None, Some(9), Some(20), Some(400)] {
        let used = attention_agrees_on(&*gpu, &shape(32, window), &packed)?;
        assert_eq!(used, (98, 4), "{window:?}");
    }
    let gpu = wanting(WantedAttention::Cudnn, shape(32, None))?;
    for (window, used) in [(None, (98, 4)), (Some(9), (4, 98)), (Some(400), (98, 4))] {
        let found = attention_agrees_on(&*gpu, &shape(32, window), &packed)?;
        assert_eq!(found, used, "{window:?}");
    }
    Ok(())
}

#[cfg(feature = "cudnn")]
#[test]
fn capped_scores_are_not_for_cudnn() -> Result<()> {
    let capped = AttentionShape {
        cap: Some(2.0),
        ..shape(32, None)
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

/// An emulated cuDNN that has no plans for heads of 128 and ignores windows, as its variables say.
#[cfg(feature = "cudnn")]
#[test]
#[ignore = "run by the test below"]
fn a_cudnn_that_fails() -> Result<()> {
    let packed = Span::packed(&[1, 67, 30]);
    wanting(WantedAttention::Cudnn, shape(32, None))?;
    assert!(wanting(WantedAttention::Cudnn, shape(128, None)).is_err());
    let gpu = wanting(WantedAttention::Fastest, shape(128, None))?;
    assert!(
        gpu.attention()
            .unwrap_or_default()
            .starts_with("own kernels")
    );
    assert_eq!(
        attention_agrees_on(&*gpu, &shape(128, None), &packed)?,
        (4, 98)
    );
    // What differs is not taken.
    let gpu = wanting(WantedAttention::Fastest, shape(32, Some(9)))?;
    let chosen = gpu.attention().unwrap_or_default();
    assert!(chosen.starts_with("own kernels (cuDNN's o is"), "{chosen}");
    assert!(wanting(WantedAttention::Cudnn, shape(32, Some(9))).is_err());
    attention_agrees_on(&*gpu, &shape(32, Some(9)), &packed).map(drop)
}

#[cfg(feature = "cudnn")]
#[test]
fn a_cudnn_that_fails_is_not_taken() {
    if std::env::var_os("QLORA_EMULATED_GPU").is_none() {
        return skip("it takes the emulated cuDNN");
    }
    let faults = [
        ("QLORA_EMULATED_CUDNN_REFUSES", "128"),
        ("QLORA_EMULATED_CUDNN_IGNORES", "windows"),
    ];
    let command = crate::fixture::ignored("attention::a_cudnn_that_fails")
        .envs(faults)
        .output();
    let output = command.expect("this program");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}
