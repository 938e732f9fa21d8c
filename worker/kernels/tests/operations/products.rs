//! Products, their sums, and adapters that share their input.

use candle_core::{DType, Tensor};
use qlora_kernels::types::loss::Head;
use qlora_kernels::{Activations, DropoutKey, LoraBackwardInput, LoraInput, Term};

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
        subject.within(
            SUMS,
            "forward",
            &backend.matmul_forward(&forward, None)?,
            &sum,
        );
        subject.within(
            SUMS,
            "forward onto",
            &backend.matmul_forward(&forward, Some(&tbase))?,
            &sum.plus(&base),
        );
        subject.within(
            SUMS,
            "forward on",
            backend.matmul_forward_on(&forward)?.tensor()?,
            &sum,
        );
        subject.within(
            SUMS,
            "backward",
            &backend.matmul_backward(&backward, None)?,
            &sum,
        );
        subject.within(
            SUMS,
            "backward onto",
            &backend.matmul_backward(&backward, Some(&tbase))?,
            &sum.plus(&base),
        );
        subject.within(
            SUMS,
            "backward on",
            backend.matmul_backward_on(&backward)?.tensor()?,
            &sum,
        );
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
        for probability in [None, Some(0.3)] {
            let x = Mat::random(m, width, 1, 1.0);
            let a: Vec<Mat> = (0..count)
                .map(|i| Mat::random(rank, width, 2 + i, 1.0))
                .collect();
            let du: Vec<Mat> = (0..count)
                .map(|i| Mat::random(m, rank, 8 + i, 1.0))
                .collect();
            let key = |i: u64| {
                let (seed, step, projection, first_token) = (7, 3, 11 + i as u32, 2);
                probability.map(|probability| DropoutKey {
                    seed,
                    step,
                    projection,
                    first_token,
                    probability,
                })
            };
            let kept: Vec<Mat> = (0..count)
                .map(|i| key(i).map_or(Mat::new(m, width, |_, _| 1.0), |key| mask(m, width, &key)))
                .collect();
            on_every(|subject| {
                let backend = &subject.backend;
                let tx = subject.tensor(&x).into();
                let ta: Vec<Tensor> = a.iter().map(|a| subject.tensor_of(a, DType::F32)).collect();
                let tdu: Vec<Activations> = du.iter().map(|du| subject.tensor(du).into()).collect();
                let inputs: Vec<_> = (0..count)
                    .map(|i| LoraInput {
                        a: &ta[i as usize],
                        mask: key(i),
                    })
                    .collect();
                let u = backend.lora_forward(&tx, &inputs)?;
                let pairs = inputs
                    .iter()
                    .zip(&tdu)
                    .map(|(&adapter, du)| LoraBackwardInput { adapter, du });
                let (grads, through) = backend.lora_backward(&tx, &pairs.collect::<Vec<_>>())?;
                let mut sum = Mat::new(m, width, |_, _| 0.0);
                for i in 0..count as usize {
                    let dropped = x.map2(&kept[i], |x, f| x * f);
                    subject.within(
                        Limits::steps(1.0),
                        "u",
                        u[i].tensor()?,
                        &dropped.times(&a[i].t()),
                    );
                    // Without a kernel a GPU writes out in bf16 what the mask leaves of x.
                    let left = if probability.is_some() && is_written_out(subject, rank) {
                        dropped.rounded()
                    } else {
                        dropped
                    };
                    subject.within(GRADIENTS, "dA", &grads[i], &du[i].t().times(&left));
                    sum = sum.plus(&du[i].times(&a[i]).map2(&kept[i], |d, f| d * f));
                }
                assert_eq!(through.is_some(), probability.is_some());
                if let Some(through) = through {
                    subject.within(Limits::steps(2.0), "through the masks", &through, &sum);
                }
                Ok(())
            });
        }
    }
}

/// Whether `subject` composes adapters of `rank` of operations in bf16: a GPU whose kernels do not
/// take an odd rank.
fn is_written_out(subject: &Subject, rank: usize) -> bool {
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
