//! The optimizer.

use candle_core::{Device, Tensor};
use qlora_kernels::types::adamw::{AdamWStep, Moments, Parameter};
use qlora_kernels::{Backend, Result, backend};

use crate::fixture::{close, gpu, values};

#[test]
fn updates_agree() -> Result<()> {
    let rule = AdamWStep {
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.1,
        step: 3,
    };
    // Groups that differ in their learning rate, in their weight decay, and in both.
    let faster = AdamWStep {
        learning_rate: 3e-2,
        ..rule
    };
    let undecayed = AdamWStep {
        weight_decay: 0.0,
        ..rule
    };
    let both = AdamWStep {
        learning_rate: 5e-2,
        weight_decay: 0.5,
        ..rule
    };
    // The last is more than the blocks of a tensor have at one time.
    let sizes = [150, 1, 1030, 70_001];
    let make = |seed, device: &Device| {
        let tensor = |(i, &n): (usize, &usize)| Tensor::from_vec(values(n, seed + i), n, device);
        sizes
            .iter()
            .enumerate()
            .map(tensor)
            .collect::<Result<Vec<_>>>()
    };
    let update = |backend: &dyn Backend, max_norm: f64| {
        let device = backend.device();
        let (gradients, first, second) =
            (make(9, device)?, make(30, device)?, make(50, &Device::Cpu)?);
        let (values, rules) = (make(70, device)?, [&rule, &undecayed, &faster, &both]);
        let second = second
            .iter()
            .map(|t| t.abs()?.to_device(device))
            .collect::<Result<Vec<_>>>()?;
        let moments: Vec<_> = first
            .into_iter()
            .zip(second)
            .map(|(first, second)| Moments::Full { first, second })
            .collect();
        let parameters: Vec<_> = (0..sizes.len())
            .map(|i| Parameter {
                value: &values[i],
                moments: &moments[i],
                gradient: &gradients[i],
                rule: rules[i],
            })
            .collect();
        let norm = backend.grad_norm(&gradients.iter().collect::<Vec<_>>())?;
        Ok::<_, candle_core::Error>((backend.adamw(&parameters, &norm, max_norm)?, norm.value()?))
    };
    for max_norm in [0.0, 0.5] {
        let ((found, norm), (wanted, wanted_norm)) = (
            update(&*gpu(), max_norm)?,
            update(&*backend::host(), max_norm)?,
        );
        assert!(
            (norm / wanted_norm - 1.0).abs() < 1e-5,
            "{norm} and {wanted_norm}"
        );
        for ((found, moved), (wanted, expected)) in found.iter().zip(&wanted) {
            close(found, wanted, 1e-4);
            let (
                Moments::Full { first, second },
                Moments::Full {
                    first: m,
                    second: v,
                },
            ) = (moved, expected)
            else {
                panic!("full moments")
            };
            close(first, m, 1e-4);
            close(second, v, 1e-4);
        }
    }
    Ok(())
}

/// Codes may differ where a value lies between two; what they stand for hardly does.
#[test]
fn updates_with_moments_in_8_bits_agree() -> Result<()> {
    let rule = AdamWStep {
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.1,
        step: 1,
    };
    let run = |backend: &dyn Backend| {
        let device = backend.device();
        let sizes = [4097, 10, 5000];
        let make = |seed: usize| {
            sizes.map(|n| Tensor::from_vec(values(n, seed), n, device).expect("values"))
        };
        let (mut value, gradients) = (make(3), make(4));
        let mut moments = [
            Moments::coded(&value[0])?,
            Moments::full(&value[1])?,
            Moments::coded(&value[2])?,
        ];
        for step in 1..=3 {
            let rule = AdamWStep { step, ..rule };
            let parameters: Vec<_> = (0..3)
                .map(|i| Parameter {
                    value: &value[i],
                    moments: &moments[i],
                    gradient: &gradients[i],
                    rule: &rule,
                })
                .collect();
            let norm = backend.grad_norm(&gradients.iter().collect::<Vec<_>>())?;
            let updated = backend.adamw(&parameters, &norm, 1.0)?;
            for (i, (new, moved)) in updated.into_iter().enumerate() {
                (value[i], moments[i]) = (new, moved);
            }
        }
        Ok::<_, candle_core::Error>((value, moments))
    };
    let ((found, moved), (wanted, expected)) = (run(&*gpu())?, run(&*backend::host())?);
    for i in 0..3 {
        close(&found[i], &wanted[i], 1e-2);
        if let (Moments::Coded { first, .. }, Moments::Coded { first: wanted, .. }) =
            (&moved[i], &expected[i])
        {
            close(&first.scales, &wanted.scales, 1e-3);
            let pairs = first
                .codes
                .to_vec1::<u8>()?
                .into_iter()
                .zip(wanted.codes.to_vec1::<u8>()?);
            let other = pairs.filter(|(a, b)| a != b).count();
            assert!(
                other * 100 < first.codes.elem_count(),
                "{other} codes differ"
            );
        }
    }
    Ok(())
}
