//! The update of the optimizer: against its formula, and against one CPU.

use candle_core::{DType, Device, Tensor};
use qlora_kernels::types::adamw::{AdamWStep, Moments, Norm, Parameter, clip_factor};
use qlora_kernels::{Backend, Result, backend};
use qlora_testkit::tensors::spread;

use crate::fixture::{Limits, Mat, STEP, on_every};

/// The norm of gradients, which is added up in another order on each backend.
const OF_NORM: Limits = alike(1e-5);

/// Values and moments of one update: the same operations in `f32`, whatever products are in.
const IN_F32: Limits = alike(1e-4 * STEP);

/// Values and moments beside the same in `f64`.
const OF_FORMULA: Limits = alike(1e-6);

/// Values after three updates with moments in 8 bits, and the scales of these.
const CODED: Limits = alike(1e-2 * STEP);
const SCALES: Limits = alike(1e-3 * STEP);

/// One limit for all backends.
const fn alike(limit: f64) -> Limits {
    Limits {
        f32: limit,
        bf16: limit,
        gpu: limit,
    }
}

#[test]
fn adamw() {
    let rule = AdamWStep {
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.1,
        step: 3,
    };
    let [value, first, gradient] = [1, 2, 3].map(|seed| Mat::random(9, 5, seed, 1.0));
    let second = Mat::random(9, 5, 4, 1.0).map2(&gradient, |v, _| v.abs());
    let length = gradient.data.iter().map(|g| g * g).sum::<f64>().sqrt();
    for max_norm in [0.0, 0.5] {
        let factor = clip_factor(length, max_norm);
        let m = first.map2(&gradient, |m, g| 0.9 * m + 0.1 * factor * g);
        let v = second.map2(&gradient, |v, g| 0.999 * v + 0.001 * (factor * g).powi(2));
        let (c1, c2) = (1.0 - 0.9f64.powi(3), 1.0 - 0.999f64.powi(3));
        let step = m.map2(&v, |m, v| m / c1 / ((v / c2).sqrt() + 1e-8));
        let wanted = value.map2(&step, |w, step| w * (1.0 - 1e-2 * 0.1) - 1e-2 * step);
        on_every(|subject| {
            let of = |t: &Mat| subject.tensor_of(t, DType::F32);
            let (tvalue, tgradient) = (of(&value), of(&gradient));
            let moments = Moments::Full {
                first: of(&first),
                second: of(&second),
            };
            let norm = subject.backend.grad_norm(&[&tgradient])?;
            assert!(
                (norm.value()? / length - 1.0).abs() < 1e-5,
                "{}: {} and {length}",
                subject.name,
                norm.value()?
            );
            let parameter = Parameter {
                value: &tvalue,
                moments: &moments,
                gradient: &tgradient,
                rule: &rule,
            };
            for norm in [norm, Norm::Known(length)] {
                let updated = subject.backend.adamw(&[parameter], &norm, max_norm)?;
                let [(found, Moments::Full { first, second })] = &updated[..] else {
                    panic!("full moments")
                };
                subject.within(OF_FORMULA, "value", found, &wanted);
                subject.within(OF_FORMULA, "first moment", first, &m);
                subject.within(OF_FORMULA, "second moment", second, &v);
            }
            Ok(())
        });
    }
}

/// Codes of the first update are those of one CPU everywhere; what they stand for is the update in
/// full.
#[test]
fn adamw_in_8_bits() {
    let rule = AdamWStep {
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.1,
        step: 1,
    };
    let [value, gradient] = [1, 2].map(|seed| Mat::random(1, 4100, seed, 1.0));
    on_every(|subject| {
        let of = |t: &Mat| subject.tensor_of(t, DType::F32).squeeze(0);
        let (tvalue, tgradient) = (of(&value)?, of(&gradient)?);
        let (coded, full) = (Moments::coded(&tvalue)?, Moments::full(&tvalue)?);
        let update = |moments: &Moments| {
            let parameter = Parameter {
                value: &tvalue,
                moments,
                gradient: &tgradient,
                rule: &rule,
            };
            subject.backend.adamw(&[parameter], &Norm::Known(1.0), 0.0)
        };
        let [(found, Moments::Coded { first, second })] = &update(&coded)?[..] else {
            panic!("moments in 8 bits")
        };
        let [(wanted, _)] = &update(&full)?[..] else {
            panic!("one parameter")
        };
        let elements = |t: &Tensor| t.to_device(&Device::Cpu)?.to_vec1::<f32>();
        let wanted = elements(wanted)?;
        subject.close(
            "value",
            found,
            &Mat::new(1, 4100, |_, j| f64::from(wanted[j])),
        );
        assert_eq!(
            (first.codes.elem_count(), second.scales.elem_count()),
            (4100, 4100usize.div_ceil(256))
        );
        Ok(())
    });
}

#[test]
fn updates_of_groups_are_those_of_one_cpu() {
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
        let tensor =
            |(i, &n): (usize, &usize)| Tensor::from_vec(spread(n, seed + i, 2003), n, device);
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
        let (wanted, wanted_norm) = update(&*backend::host(), max_norm).expect("an update");
        on_every(|subject| {
            let (found, norm) = update(&*subject.backend, max_norm)?;
            subject.near(OF_NORM, "the norm", norm, wanted_norm);
            for ((found, moved), (wanted, expected)) in found.iter().zip(&wanted) {
                subject.within(IN_F32, "value", found, &Mat::of(wanted));
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
                subject.within(IN_F32, "first moment", first, &Mat::of(m));
                subject.within(IN_F32, "second moment", second, &Mat::of(v));
            }
            Ok(())
        });
    }
}

/// Codes may differ where a value lies between two; what they stand for hardly does.
#[test]
fn updates_with_moments_in_8_bits_are_those_of_one_cpu() {
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
            sizes.map(|n| Tensor::from_vec(spread(n, seed, 2003), n, device).expect("values"))
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
    let (wanted, expected) = run(&*backend::host()).expect("updates");
    on_every(|subject| {
        let (found, moved) = run(&*subject.backend)?;
        for i in 0..3 {
            subject.within(CODED, "value", &found[i], &Mat::of(&wanted[i]));
            let (Moments::Coded { first, .. }, Moments::Coded { first: wanted, .. }) =
                (&moved[i], &expected[i])
            else {
                continue;
            };
            subject.within(SCALES, "scales", &first.scales, &Mat::of(&wanted.scales));
            let pairs = first
                .codes
                .to_vec1::<u8>()?
                .into_iter()
                .zip(wanted.codes.to_vec1::<u8>()?);
            let other = pairs.filter(|(a, b)| a != b).count();
            assert!(
                other * 100 < first.codes.elem_count(),
                "on {}: {other} codes differ",
                subject.name
            );
        }
        Ok(())
    });
}
