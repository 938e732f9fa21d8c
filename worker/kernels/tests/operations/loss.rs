//! The loss, and logits.

use candle_core::DType;
use qlora_kernels::types::loss::Head;

use crate::fixture::{LIMITS, Limits, Mat, on_every};
use crate::oracle;

#[test]
fn cross_entropy() {
    for v in [97, 104] {
        loss_agrees(&of_rows(41, v), 1.0, None);
    }
    loss_agrees(&of_rows(41, 397), 1.0, None);
}

/// A scale and a cap that all but the smallest logits feel.
#[test]
fn cross_entropy_of_scaled_and_capped_logits() {
    for v in [97, 104] {
        loss_agrees(&of_rows(41, v), 0.5, None);
        loss_agrees(&of_rows(41, v), 1.0, Some(3.0));
        loss_agrees(&of_rows(41, v), 0.5, Some(3.0));
    }
    loss_agrees(&of_rows(41, 397), 0.75, Some(2.0));
}

/// More rows than a real step has at one time, and large values of few features.
#[test]
fn cross_entropy_of_many_rows() {
    for (scale, cap) in [(1.0, None), (0.75, Some(2.0))] {
        loss_agrees_in(&of_rows(1030, 397), scale, cap, 1024);
    }
    let few = Case {
        hidden: Mat::random(301, 11, 12, 4.0),
        head: Mat::random(97, 11, 13, 1.0),
        targets: (0..301).map(|i| i * 31 % 97).collect(),
    };
    loss_agrees_in(&few, 1.0, None, 256);
}

/// Rows that are longer than what a block of a GPU keeps of them: seven parts of 8,192 logits on the
/// emulated one.
#[test]
fn cross_entropy_over_large_vocabularies() {
    for v in [70_000, 70_001, 65_600, 8192, 8200] {
        // Logits of which few count, and logits of which all count alike.
        for (spread, mean) in [(1.0, 0.0), (0.01, 1.0)] {
            let last = v as u32;
            let case = Case {
                hidden: Mat::random(5, 16, 16, 4.0 * spread),
                head: Mat::random(v, 16, 17, 1.0).map(|w| w + mean).rounded(),
                targets: vec![0, last - 1, 57_343 % last, 57_344 % last, 8191],
            };
            for (scale, cap) in [(1.0, None), (0.75, Some(2.0))] {
                loss_agrees_in(&case, scale, cap, 3);
            }
        }
    }
}

struct Case {
    hidden: Mat,
    head: Mat,
    targets: Vec<u32>,
}

fn of_rows(count: usize, v: usize) -> Case {
    Case {
        hidden: Mat::random(count, 64, 1, 1.0),
        head: Mat::random(v, 64, 2, 1.0),
        targets: (0..count as u32).map(|i| i * 31 % v as u32).collect(),
    }
}

/// All rows at once, and in parts of which the last is shorter.
fn loss_agrees(case: &Case, scale: f64, cap: Option<f32>) {
    for rows in [1024, 16, 1] {
        loss_agrees_in(case, scale, cap, rows);
    }
}

/// A GPU adds losses up in `f32`, as they come out of products.
const OF_SUM: Limits = Limits {
    gpu: 1e-5,
    ..LIMITS
};

/// A loss is the same whether its gradient is wanted or not: on a GPU bit for bit, where `f32`
/// products go through another path up to their rounding.
const OF_SUM_ALONE: Limits = Limits {
    f32: 1e-6,
    bf16: 1e-9,
    gpu: 0.0,
};

fn loss_agrees_in(case: &Case, scale: f64, cap: Option<f32>, rows: usize) {
    let (head, targets) = (&case.head, &case.targets);
    let logits = case.hidden.times(&head.t()).scaled(scale);
    let (sum, dlogits) = oracle::cross_entropy(&logits, cap, targets);
    let wanted = dlogits.times(head).scaled(0.25 * scale);
    on_every(|subject| {
        let (thidden, thead) = (subject.tensor(&case.hidden), subject.tensor(head));
        let output = Head {
            scale,
            cap,
            ..Head::new(&thead, rows)
        };
        let loss_of = |scale| {
            let backend = &subject.backend;
            let found = backend.cross_entropy(&thidden, output, targets, scale, &|| true)?;
            Ok::<_, candle_core::Error>(found.expect("nobody stops it"))
        };
        let found = loss_of(Some(0.25))?;
        let loss = found.sum.value()?;
        subject.near(OF_SUM, "the loss", loss, sum);
        let grad = found.grad.expect("a gradient");
        subject.within(Limits::steps(2.0), "dhidden", &grad, &wanted);
        let alone = loss_of(None)?;
        subject.near(OF_SUM_ALONE, "the loss alone", alone.sum.value()?, loss);
        assert!(alone.grad.is_none());
        Ok(())
    });
}

#[test]
fn logits_are_scaled_and_then_capped() {
    let (hidden, weight) = (Mat::random(9, 64, 1, 1.0), Mat::random(53, 64, 2, 1.0));
    let plain = hidden.times(&weight.t());
    for (scale, cap) in [
        (1.0, None),
        (0.25, None),
        (1.0, Some(2.0)),
        (0.5, Some(2.0)),
    ] {
        let wanted = Mat::new(9, 53, |i, j| oracle::capped(scale * plain.at(i, j), cap).0);
        on_every(|subject| {
            let tweight = subject.tensor(&weight);
            let head = Head {
                scale,
                cap,
                ..Head::new(&tweight, 1)
            };
            let hidden = subject.tensor(&hidden).into();
            let found = subject.backend.logits(&hidden, head)?;
            assert_eq!(found.dtype(), DType::F32);
            subject.close("logits", &found, &wanted);
            Ok(())
        });
    }
}
