//! Attention over packed sequences, with and without a window, and with keys from before.

use qlora_kernels::types::options::WantedAttention;
use qlora_kernels::{AttentionSaved, AttentionShape, Span};

use crate::fixture::{Mat, on_every_for};
use crate::oracle;

fn agrees(head_dim: usize, window: Option<usize>, spans: &[Span]) {
    let shape = AttentionShape {
        window,
        ..AttentionShape::new(6, 2, head_dim)
    };
    agrees_for(&shape, spans);
}

fn agrees_for(shape: &AttentionShape, spans: &[Span]) {
    let (heads, kv_heads, head_dim) = (shape.heads, shape.kv_heads, shape.head_dim);
    let (m, keys) = (
        spans.iter().map(|s| s.q.len()).sum(),
        spans.iter().map(|s| s.k.len()).sum(),
    );
    let q = Mat::random(m, heads * head_dim, 1, 2.0);
    let [k, v] = [2, 3].map(|seed| Mat::random(keys, kv_heads * head_dim, seed, 1.0));
    let d_o = Mat::random(m, heads * head_dim, 4, 1.0);
    let wanted = oracle::attention([&q, &k, &v, &d_o], shape, spans);
    on_every_for(*shape, WantedAttention::Repeatable, |subject| {
        let (backend, sequences) = (&subject.backend, subject.backend.sequences(spans)?);
        let [q, k, v, d_o] = [&q, &k, &v, &d_o].map(|t| subject.tensor(t));
        let (o, lse) = backend.attention_forward((&q, &k, &v), shape, &sequences)?;
        subject.close("O", &o, &wanted.o);
        let saved = AttentionSaved {
            q: &q,
            k: &k,
            v: &v,
            o: &o,
            lse: &lse,
        };
        let (dq, dk, dv) = backend.attention_backward(&d_o, &saved, shape, &sequences)?;
        subject.close("dQ", &dq, &wanted.dq);
        subject.close("dK", &dk, &wanted.dk);
        subject.close("dV", &dv, &wanted.dv);
        Ok(())
    });
}

#[test]
fn of_packed_sequences() {
    agrees(16, None, &Span::packed(&[1, 7, 131, 2]));
    agrees(64, None, &Span::packed(&[33]));
}

#[test]
fn with_a_window() {
    agrees(16, Some(5), &Span::packed(&[3, 70]));
    agrees(32, Some(2), &Span::packed(&[40]));
}

#[test]
fn with_keys_from_before() {
    agrees(16, None, &[Span { q: 0..5, k: 0..90 }]);
    agrees(
        32,
        Some(40),
        &[Span {
            q: 0..70,
            k: 0..171,
        }],
    );
}

/// Sizes of heads of real models.
const HEADS: [usize; 6] = [16, 32, 48, 80, 96, 256];

#[test]
fn of_heads_of_every_size() {
    for head_dim in HEADS {
        agrees(head_dim, None, &Span::packed(&[3, 70]));
    }
}

/// A scale other than 1 / sqrt(E), and a cap that most scores feel.
#[test]
fn with_a_scale_and_a_cap() {
    for head_dim in HEADS {
        for window in [None, Some(9)] {
            let shape = AttentionShape {
                window,
                scale: 1.7 / (head_dim as f32).sqrt(),
                cap: Some(1.5),
                ..AttentionShape::new(4, 2, head_dim)
            };
            agrees_for(&shape, &Span::packed(&[3, 45]));
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
        agrees_for(&shape, &Span::packed(&[201]));
    }
}
