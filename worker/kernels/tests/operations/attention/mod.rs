//! Attention over packed sequences, with and without a window, and with keys from before.

mod case;
#[cfg(feature = "cuda")]
mod chips;
#[cfg(feature = "cudnn")]
mod cudnn;

use candle_core::Tensor;
use qlora_kernels::types::attention::CUDA_HEADS;
use qlora_kernels::types::options::WantedAttention;
use qlora_kernels::{AttentionShape, Result, Span};

use crate::fixture::{LIMITS, Limits, Mat, on_every_for};

use case::{Case, Layout};

/// On every backend that is opened for this attention, in a fixed order of sums.
fn agrees(shape: AttentionShape, spans: &[Span]) {
    agrees_opened_for(shape, WantedAttention::Repeatable, shape, spans);
}

fn agrees_opened_for(
    opened: AttentionShape,
    wanted: WantedAttention,
    shape: AttentionShape,
    spans: &[Span],
) {
    let case = Case::new(shape, spans);
    on_every_for(opened, wanted, |subject| {
        // No kernels but cuDNN's put the sums of a token side by side.
        assert_eq!(case.agrees_on(subject)?, Layout::ByHead, "{}", subject.name);
        Ok(())
    });
}

/// Three query heads for each head of keys.
fn threes(head_dim: usize, window: Option<usize>) -> AttentionShape {
    AttentionShape {
        window,
        ..AttentionShape::new(6, 2, head_dim)
    }
}

/// Two query heads for each head of keys.
fn pairs(head_dim: usize, window: Option<usize>) -> AttentionShape {
    AttentionShape {
        window,
        ..AttentionShape::new(4, 2, head_dim)
    }
}

/// A GPU has no kernels for heads of 10, and takes the reference form.
#[test]
fn of_packed_sequences() {
    for head_dim in [10, 16] {
        agrees(threes(head_dim, None), &Span::packed(&[1, 7, 131, 2]));
    }
    agrees(threes(64, None), &Span::packed(&[33]));
    agrees(threes(64, None), &Span::packed(&[33, 300]));
}

#[test]
fn of_heads_of_every_size() {
    for head_dim in CUDA_HEADS {
        agrees(threes(head_dim, None), &Span::packed(&[3, 70]));
        agrees(pairs(head_dim, None), &Span::packed(&[1, 67, 30]));
    }
}

#[test]
fn over_long_sequences() {
    agrees(pairs(128, None), &Span::packed(&[201]));
    // Four tiles of keys, of which three are held at one time.
    agrees(pairs(64, None), &Span::packed(&[401]));
}

#[test]
fn with_a_window() {
    for head_dim in [10, 16] {
        agrees(threes(head_dim, Some(5)), &Span::packed(&[3, 70]));
    }
    agrees(threes(32, Some(2)), &Span::packed(&[40]));
    agrees(threes(48, Some(37)), &Span::packed(&[3, 170]));
    for head_dim in [16, 64] {
        agrees(pairs(head_dim, Some(9)), &Span::packed(&[150, 3, 65]));
        agrees(pairs(head_dim, Some(70)), &Span::packed(&[200]));
    }
    agrees(pairs(128, Some(130)), &Span::packed(&[270]));
}

/// The window of a call is that of its layer, whatever the backend was opened with.
#[test]
fn of_layers_with_windows_of_their_own() {
    for (opened, head_dim) in [(None, 64), (Some(9), 64), (Some(9), 32), (Some(9), 256)] {
        for window in [None, Some(9), Some(70)] {
            agrees_opened_for(
                pairs(head_dim, opened),
                WantedAttention::Repeatable,
                pairs(head_dim, window),
                &Span::packed(&[150, 3]),
            );
        }
    }
}

/// Few queries that see many keys, and many with a window.
const FROM_BEFORE: [(Option<usize>, Span); 2] = [
    (None, Span { q: 0..5, k: 0..90 }),
    (
        Some(40),
        Span {
            q: 0..70,
            k: 0..171,
        },
    ),
];

#[test]
fn with_keys_from_before() {
    for (window, span) in FROM_BEFORE {
        for head_dim in [16, 32, 64, 128] {
            agrees(pairs(head_dim, window), std::slice::from_ref(&span));
        }
        agrees(threes(32, window), &[span]);
    }
}

/// A block has half a tile of such heads: tiles whose second half is empty, short and whole, with
/// keys from before and a window that begins in either half.
#[test]
fn of_large_heads() {
    for lengths in [&[64][..], &[65, 128], &[201]] {
        agrees(pairs(256, None), &Span::packed(lengths));
        agrees(pairs(256, Some(70)), &Span::packed(lengths));
    }
    for (window, span) in FROM_BEFORE {
        agrees(pairs(256, window), &[span]);
    }
}

/// A scale other than 1 / sqrt(E), and a cap that most scores feel. On Hopper these are the kernels
/// of other chips.
#[test]
fn with_a_scale_and_a_cap() {
    for head_dim in CUDA_HEADS {
        for window in [None, Some(9)] {
            let capped = |scale| AttentionShape {
                scale,
                cap: Some(1.5),
                ..pairs(head_dim, window)
            };
            let scaled = capped(1.7 / (head_dim as f32).sqrt());
            agrees(scaled, &Span::packed(&[3, 45]));
            for wanted in [WantedAttention::Repeatable, WantedAttention::Flash] {
                let shape = capped(0.5);
                agrees_opened_for(shape, wanted, shape, &Span::packed(&[1, 67, 30]));
            }
        }
    }
}

/// Both over several tiles, whose first keys the window leaves.
#[test]
fn with_a_cap_over_long_sequences() {
    for (head_dim, window) in [(256, None), (256, Some(70)), (96, Some(70)), (64, None)] {
        let shape = AttentionShape {
            window,
            cap: Some(2.0),
            ..AttentionShape::new(2, 1, head_dim)
        };
        agrees(shape, &Span::packed(&[201]));
    }
}

/// Q, K and V of nine tokens.
fn nine(shape: &AttentionShape, seed: u64) -> [Mat; 3] {
    let of = |heads: usize, seed| Mat::random(9, heads * shape.head_dim, seed, 1.0);
    [
        of(shape.heads, seed),
        of(shape.kv_heads, seed + 1),
        of(shape.kv_heads, seed + 2),
    ]
}

/// Rows `from` and all behind them.
fn rest(tensor: &Tensor, from: usize) -> Result<Tensor> {
    tensor.narrow(0, from, tensor.dim(0)? - from)?.contiguous()
}

#[test]
fn packed_sequences_do_not_see_each_other() {
    for head_dim in [8, 16] {
        let shape = AttentionShape::new(2, 1, head_dim);
        let inputs = nine(&shape, 20);
        on_every_for(shape, WantedAttention::Repeatable, |subject| {
            let [q, k, v] = inputs.each_ref().map(|t| subject.tensor(t));
            let forward = |q: &Tensor, k: &Tensor, v: &Tensor, lengths: &[usize]| -> Result<_> {
                let sequences = subject.backend.sequences(&Span::packed(lengths))?;
                let qkv = (q, k, v);
                Ok(subject
                    .backend
                    .attention_forward(qkv, &shape, &sequences)?
                    .0)
            };
            let both = forward(&q, &k, &v, &[4, 5])?;
            let alone = forward(&rest(&q, 4)?, &rest(&k, 4)?, &rest(&v, 4)?, &[5])?;
            subject.same("the second", &rest(&both, 4)?, &Mat::of(&alone));
            Ok(())
        });
    }
}

#[test]
fn a_token_with_keys_from_before_is_that_of_the_whole_pass() {
    for head_dim in [8, 16] {
        let shape = AttentionShape {
            window: Some(6),
            ..AttentionShape::new(2, 1, head_dim)
        };
        let inputs = nine(&shape, 23);
        on_every_for(shape, WantedAttention::Repeatable, |subject| {
            let [q, k, v] = inputs.each_ref().map(|t| subject.tensor(t));
            let forward = |q: &Tensor, span| -> Result<_> {
                let sequences = subject.backend.sequences(&[span])?;
                let qkv = (q, &k, &v);
                Ok(subject
                    .backend
                    .attention_forward(qkv, &shape, &sequences)?
                    .0)
            };
            let whole = forward(&q, Span { q: 0..9, k: 0..9 })?;
            let last = forward(&rest(&q, 8)?, Span { q: 0..1, k: 0..9 })?;
            let limits = Limits {
                f32: 1e-6,
                ..LIMITS
            };
            subject.within(limits, "the last token", &last, &Mat::of(&rest(&whole, 8)?));
            Ok(())
        });
    }
}
