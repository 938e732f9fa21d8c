//! Products, their sums, and adapters that share their input.

use candle_core::{DType, Tensor};
use qlora_kernels::types::loss::Head;
use qlora_kernels::{Activations, DropoutKey, LoraBackwardInput, LoraInput, Result, Term};

use crate::fixture::{Limits, Mat, Subject, on_every};

/// Inputs are in bf16 everywhere, so that only sums and results are rounded.
const SUMS: Limits = Limits {
    bf16: 4e-3,
    ..Limits::steps(2.0)
};

/// Gradients of adapters stay in `f32`.
const GRADIENTS: Limits = Limits::steps(1e-3);

#[test]
fn sums_of_products() {
    let (m, n) = (37, 53);
    let (base, widths, scales) = (Mat::random(m, n, 1, 1.0), [70, 16, 33], [1.0, 0.5, 2.0]);
    let x = [0, 1, 2].map(|i| Mat::random(m, widths[i], 2 + i as u64, 1.0));
    let w = [0, 1, 2].map(|i| Mat::random(n, widths[i], 5 + i as u64, 1.0));
    let parts = [0, 1, 2].map(|i| x[i].times(&w[i].t()).scaled(scales[i]));
    let sum = parts[0].plus(&parts[1]).plus(&parts[2]);
    on_every(|subject| {
        let (backend, tbase) = (&subject.backend, subject.tensor(&base));
        let ax = [0, 1, 2].map(|i| Activations::from(subject.tensor(&x[i])));
        // Frozen matrices in the type of the activations, and a factor of an adapter in f32. A
        // second frozen one takes a kernel of candle's on a GPU.
        let of = |w: &[Mat; 3]| {
            let factor = |w| subject.tensor_of(w, DType::F32);
            let second = if subject.has_candles_kernels() {
                subject.tensor(&w[2])
            } else {
                factor(&w[2])
            };
            [subject.tensor(&w[0]), factor(&w[1]), second]
        };
        let (plain, transposed) = (of(&w), of(&[0, 1, 2].map(|i| w[i].t())));
        let forward = [0, 1, 2].map(|i| Term {
            x: &ax[i],
            w: &plain[i],
            scale: scales[i],
        });
        let backward = [0, 1, 2].map(|i| Term {
            x: &ax[i],
            w: &transposed[i],
            scale: scales[i],
        });
        for (what, found) in [
            ("forward", backend.matmul_forward(&forward, None)?),
            (
                "forward on",
                backend.matmul_forward_on(&forward)?.tensor()?.clone(),
            ),
            ("backward", backend.matmul_backward(&backward, None)?),
            (
                "backward on",
                backend.matmul_backward_on(&backward)?.tensor()?.clone(),
            ),
        ] {
            subject.within(SUMS, what, &found, &sum);
        }
        let onto = sum.plus(&base);
        let found = backend.matmul_forward(&forward, Some(&tbase))?;
        subject.within(SUMS, "forward onto", &found, &onto);
        let found = backend.matmul_backward(&backward, Some(&tbase))?;
        subject.within(SUMS, "backward onto", &found, &onto);
        let logits = backend.logits(&ax[0], Head::new(&plain[0], 1))?;
        assert_eq!(logits.dtype(), DType::F32);
        subject.close("logits", &logits, &parts[0]);
        Ok(())
    });
}

#[test]
fn weight_gradients() {
    for (m, p, q) in [(45, 16, 70), (45, 70, 16), (37, 45, 61)] {
        let (a, b) = (Mat::random(m, p, 1, 1.0), Mat::random(m, q, 2, 1.0));
        let wanted = a.t().times(&b).scaled(0.25);
        on_every(|subject| {
            let [a, b] = [&a, &b].map(|t| Activations::from(subject.tensor(t)));
            let found = subject.backend.weight_gradient(&a, &b, 0.25)?;
            assert_eq!((found.dtype(), found.dims()), (DType::F32, &[p, q][..]));
            subject.within(GRADIENTS, "a^T b", &found, &wanted);
            Ok(())
        });
    }
}

#[test]
fn adapters_that_share_their_input() {
    // A rank that no kernel takes is one of them; as many launches as the ranks need, and more rows
    // than one part of a gradient has.
    for (m, width, rank, count) in [
        (1, 8, 2, 1),
        (33, 72, 16, 2),
        (33, 72, 5, 2),
        (37, 72, 16, 3),
        (70, 136, 20, 2),
        (33, 328, 40, 3),
        (1100, 40, 16, 1),
    ] {
        let x = Mat::random(m, width, 1, 1.0);
        for probability in [None, Some(0.3)] {
            let adapters: Vec<Adapter> = (0..count)
                .map(|i| Adapter::new(&x, rank, i, probability))
                .collect();
            on_every(|subject| adapters_agree(subject, &x, &adapters));
        }
    }
}

/// One of several adapters: its factor, its mask, and a gradient of what it gives.
struct Adapter {
    a: Mat,
    key: Option<DropoutKey>,
    du: Mat,
    /// What its mask multiplies the input with.
    kept: Mat,
}

impl Adapter {
    fn new(x: &Mat, rank: usize, number: u32, probability: Option<f64>) -> Self {
        let key = probability.map(|probability| DropoutKey {
            seed: 0x1234_5678_9abc,
            step: 9,
            projection: 11 + number,
            first_token: 3,
            probability,
        });
        let ones = || Mat::new(x.rows, x.cols, |_, _| 1.0);
        Self {
            a: Mat::random(rank, x.cols, 2 + u64::from(number), 1.0),
            key,
            du: Mat::random(x.rows, rank, 8 + u64::from(number), 1.0),
            kept: key.map_or_else(ones, |key| mask(x.rows, x.cols, &key)),
        }
    }
}

fn adapters_agree(subject: &Subject, x: &Mat, adapters: &[Adapter]) -> Result<()> {
    let (backend, tx) = (&subject.backend, subject.tensor(x).into());
    let ta: Vec<Tensor> = adapters
        .iter()
        .map(|one| subject.tensor_of(&one.a, DType::F32))
        .collect();
    let tdu: Vec<Activations> = adapters
        .iter()
        .map(|one| subject.tensor(&one.du).into())
        .collect();
    let inputs: Vec<LoraInput<'_>> = adapters
        .iter()
        .zip(&ta)
        .map(|(one, a)| LoraInput { a, mask: one.key })
        .collect();
    let pairs: Vec<LoraBackwardInput<'_>> = inputs
        .iter()
        .zip(&tdu)
        .map(|(&adapter, du)| LoraBackwardInput { adapter, du })
        .collect();
    let u = backend.lora_forward(&tx, &inputs)?;
    let (grads, through) = backend.lora_backward(&tx, &pairs)?;
    assert_eq!([u.len(), grads.len()], [adapters.len(); 2]);
    let mut sum = Mat::new(x.rows, x.cols, |_, _| 0.0);
    for (one, (u, da)) in adapters.iter().zip(u.iter().zip(&grads)) {
        let dropped = x.map2(&one.kept, |x, f| x * f);
        let wanted = dropped.times(&one.a.t());
        subject.within(Limits::steps(1.0), "u", u.tensor()?, &wanted);
        // Without a kernel a GPU writes out in bf16 what the mask leaves of x.
        let left = if one.key.is_some() && is_composed(subject, one.a.rows) {
            dropped.rounded()
        } else {
            dropped
        };
        assert_eq!(da.dtype(), DType::F32);
        subject.within(GRADIENTS, "dA", da, &one.du.t().times(&left));
        sum = sum.plus(&one.du.times(&one.a).map2(&one.kept, |d, f| d * f));
    }
    let is_masked = adapters.iter().any(|one| one.key.is_some());
    assert_eq!(through.is_some(), is_masked, "{}", subject.name);
    if let Some(through) = through {
        subject.within(Limits::steps(2.0), "through the masks", &through, &sum);
    }
    Ok(())
}

/// Whether `subject` composes adapters of `rank` of operations in bf16: a GPU whose kernels do not
/// take an odd rank.
fn is_composed(subject: &Subject, rank: usize) -> bool {
    subject.is_gpu() && rank % 2 == 1
}

/// What an adapter changes in its first steps is smaller than the last place of what it is added
/// to.
#[test]
fn a_small_term_of_a_sum_is_not_rounded_away() {
    for (m, k, n) in [(64, 96, 80), (256, 512, 256), (384, 1024, 512)] {
        let (x, w) = (Mat::random(m, k, 16, 1.0), Mat::random(n, k, 17, 1.0));
        let (base, u) = (Mat::random(m, n, 18, 1.0), Mat::new(m, 2, |_, _| 1.0));
        on_every(|subject| {
            let (tw, tbase) = (subject.tensor(&w), subject.tensor(&base));
            let [ax, au] = [&x, &u].map(|t| Activations::from(subject.tensor(t)));
            for base in [None, Some(&tbase)] {
                let mean = |value: f64| {
                    let b = subject.tensor_of(&Mat::new(n, 2, |_, _| value), DType::F32);
                    let term = |x, w| Term { x, w, scale: 1.0 };
                    let terms = [term(&ax, &tw), term(&au, &b)];
                    let sum = Mat::of(&subject.backend.matmul_forward(&terms, base)?);
                    Ok::<_, candle_core::Error>(sum.data.iter().sum::<f64>() / (m * n) as f64)
                };
                let change = mean(1e-3)? - mean(0.0)?;
                assert!(
                    (1e-3..4e-3).contains(&change),
                    "{m} x {n} x {k} on {}: {change} where 0.002 is added",
                    subject.name
                );
            }
            Ok(())
        });
    }
}

/// What `key` multiplies elements with.
fn mask(m: usize, width: usize, key: &DropoutKey) -> Mat {
    let host = qlora_kernels::backend::reference(&candle_core::Device::Cpu, DType::F32);
    let ones = Tensor::ones((m, width), DType::F32, host.device())
        .expect("ones")
        .into();
    let drawn = host
        .dropout(&ones, key)
        .and_then(|t| t.tensor()?.flatten_all()?.to_vec1::<f32>())
        .expect("a mask");
    Mat::new(m, width, |i, j| f64::from(drawn[i * width + j]))
}
