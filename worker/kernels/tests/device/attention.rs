//! Our kernels' attention for every chip, and cuDNN's.

use std::process::Command;

use candle_core::Device;
use qlora_kernels::ops::attention;
use qlora_kernels::{AttentionShape, Products, Result, Sequences, Span};

use crate::fixture::{close, gpu, ignored, on, random};

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
        command.args([
            "--exact",
            "attention::attention_agrees_for_every_size_of_head",
            "attention::attention_over_long_sequences_agrees",
        ]);
        command
            .args(["attention::attention_with_a_window_agrees", "attention::attention_with_keys_from_before_agrees"]);
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
    let output = ignored("attention::a_cudnn_that_fails").envs(faults).output().expect("this program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
