//! Products, their sums, frozen matrices, and adapters that share their input.

use candle_core::{DType, Tensor};
use qlora_kernels::types::loss::Head;
use qlora_kernels::{Activations, DropoutKey, LoraBackwardInput, LoraInput, Term};

use crate::fixture::{Mat, on_every};

#[test]
fn sums_of_products() {
    let (m, n) = (37, 53);
    let (base, widths, scales) = (Mat::random(m, n, 1, 1.0), [70, 16], [1.0, 0.5]);
    let x = [0, 1].map(|i| Mat::random(m, widths[i], 2 + i as u64, 1.0));
    let w = [0, 1].map(|i| Mat::random(n, widths[i], 4 + i as u64, 1.0));
    let parts = [0, 1].map(|i| x[i].times(&w[i].t()).scaled(scales[i]));
    let sum = parts[0].plus(&parts[1]);
    on_every(|subject| {
        let (backend, tbase) = (&subject.backend, subject.tensor(&base));
        let ax = [0, 1].map(|i| Activations::from(subject.tensor(&x[i])));
        // A frozen matrix in the type of the activations, and a factor of an adapter in f32.
        let of = |w: &[Mat; 2]| [subject.tensor(&w[0]), subject.tensor_of(&w[1], DType::F32)];
        let (plain, transposed) = (of(&w), of(&[w[0].t(), w[1].t()]));
        let forward = [0, 1].map(|i| Term {
            x: &ax[i],
            w: &plain[i],
            scale: scales[i],
        });
        let backward = [0, 1].map(|i| Term {
            x: &ax[i],
            w: &transposed[i],
            scale: scales[i],
        });
        subject.close("forward", &backend.matmul_forward(&forward, None)?, &sum);
        subject.close(
            "forward onto",
            &backend.matmul_forward(&forward, Some(&tbase))?,
            &sum.plus(&base),
        );
        subject.close(
            "forward on",
            backend.matmul_forward_on(&forward)?.tensor()?,
            &sum,
        );
        subject.close("backward", &backend.matmul_backward(&backward, None)?, &sum);
        subject.close(
            "backward onto",
            &backend.matmul_backward(&backward, Some(&tbase))?,
            &sum.plus(&base),
        );
        subject.close(
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
    for (p, q) in [(16, 70), (70, 16)] {
        let (a, b) = (Mat::random(45, p, 1, 1.0), Mat::random(45, q, 2, 1.0));
        let wanted = a.t().times(&b).scaled(0.25);
        on_every(|subject| {
            let [a, b] = [&a, &b].map(|t| Activations::from(subject.tensor(t)));
            let found = subject.backend.weight_gradient(&a, &b, 0.25)?;
            assert_eq!((found.dtype(), found.dims()), (DType::F32, &[p, q][..]));
            subject.close("a^T b", &found, &wanted);
            Ok(())
        });
    }
}

/// What NF4 loses is the same everywhere: table value x scale, rounded once.
#[test]
fn nf4() {
    let host = qlora_kernels::backend::host();
    for (rows, cols, block, double) in [
        (33, 31, 64, true),
        (3, 1, 64, true),
        (40, 64, 32, false),
        (9, 70, 96, true),
    ] {
        let weights = Mat::random(rows, cols, 5, 1.0);
        on_every(|subject| {
            let backend = &subject.backend;
            let plain = Tensor::from_vec(
                weights.data.iter().map(|&v| v as f32).collect(),
                (rows, cols),
                host.device(),
            )?;
            let codes = host.quantize(&plain, block, double)?;
            let exact = host
                .dequantize(&codes, DType::BF16)?
                .to_dtype(DType::F32)?
                .flatten_all()?
                .to_vec1::<f32>()?;
            let wanted = Mat::new(rows, cols, |i, j| f64::from(exact[i * cols + j]));
            let there = backend.quantize(&plain, block, double)?;
            backend.prefetch(&there)?;
            subject.close(
                "dequantize",
                &backend.dequantize(&there, DType::BF16)?,
                &wanted,
            );
            let x = Mat::random(4, cols, 6, 1.0);
            let product = backend.logits(&subject.tensor(&x).into(), Head::new(&there, 1))?;
            let floats = host
                .dequantize(&codes, DType::F32)?
                .flatten_all()?
                .to_vec1::<f32>()?;
            let w = Mat::new(rows, cols, |i, j| f64::from(floats[i * cols + j]));
            subject.close("product", &product, &x.times(&w.t()));
            Ok(())
        });
    }
}

#[test]
fn adapters_that_share_their_input() {
    let (m, width, count) = (33, 72, 2);
    // A rank that no kernel takes is one of them.
    for rank in [16, 5] {
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
                    subject.close("u", u[i].tensor()?, &dropped.times(&a[i].t()));
                    subject.close("dA", &grads[i], &du[i].t().times(&dropped));
                    sum = sum.plus(&du[i].times(&a[i]).map2(&kept[i], |d, f| d * f));
                }
                assert_eq!(through.is_some(), probability.is_some());
                if let Some(through) = through {
                    subject.close("through the masks", &through, &sum);
                }
                Ok(())
            });
        }
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
