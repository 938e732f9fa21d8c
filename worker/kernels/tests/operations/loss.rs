//! The loss, and the update of the optimizer.

use candle_core::{DType, Device, Tensor};
use qlora_kernels::types::adamw::{AdamWStep, Moments, Norm, Parameter, clip_factor};
use qlora_kernels::types::forms::{Form, Operation};
use qlora_kernels::types::loss::Head;

use crate::fixture::{Mat, on_every};
use crate::oracle;

#[test]
fn cross_entropy() {
    for v in [97, 104] {
        loss_agrees(v, 1.0, None);
    }
}

/// A scale and a cap that all but the smallest logits feel.
#[test]
fn cross_entropy_of_scaled_and_capped_logits() {
    for v in [97, 104] {
        loss_agrees(v, 0.5, None);
        loss_agrees(v, 1.0, Some(3.0));
        loss_agrees(v, 0.5, Some(3.0));
    }
}

fn loss_agrees(v: usize, scale: f64, cap: Option<f32>) {
    let (count, d) = (41, 64);
    let (hidden, head) = (Mat::random(count, d, 1, 1.0), Mat::random(v, d, 2, 1.0));
    let targets: Vec<u32> = (0..count as u32).map(|i| i * 31 % v as u32).collect();
    let logits = hidden.times(&head.t()).scaled(scale);
    let (sum, dlogits) = oracle::cross_entropy(&logits, cap, &targets);
    let wanted = dlogits.times(&head).scaled(0.25 * scale);
    // All rows at once, and in parts of which the last is shorter.
    for rows in [1024, 16, 1] {
        on_every(|subject| {
            let (thidden, thead) = (subject.tensor(&hidden), subject.tensor(&head));
            let output = Head {
                scale,
                cap,
                ..Head::new(&thead, rows)
            };
            let found = subject
                .backend
                .cross_entropy(&thidden, output, &targets, Some(0.25), &|| true)?
                .expect("nobody stops it");
            let loss = found.sum.value()?;
            assert!(
                (loss / sum - 1.0).abs() < subject.tolerance,
                "{}: {loss} and {sum}",
                subject.name
            );
            subject.close("dhidden", &found.grad.expect("a gradient"), &wanted);
            let alone = subject
                .backend
                .cross_entropy(&thidden, output, &targets, None, &|| true)?
                .expect("nobody stops it");
            assert!(
                (alone.sum.value()? / sum - 1.0).abs() < subject.tolerance && alone.grad.is_none()
            );
            Ok(())
        });
    }
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
                subject.close("value", found, &wanted);
                subject.close("first moment", first, &m);
                subject.close("second moment", second, &v);
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

/// What a run logs. The reference forms claim no code of their own, a CPU names the instructions
/// that it multiplies on, and only a GPU copies ahead and away.
#[test]
fn every_backend_says_what_computes_each_operation() {
    on_every(|subject| {
        let forms = subject.backend.forms();
        let is_listed = |operation| forms.of(operation).is_some();
        assert!(Operation::ALL.into_iter().all(is_listed), "{forms}");
        let is_native = |operation| matches!(forms.of(operation), Some(Form::Native(_)));
        let product = forms.of(Operation::Matmul).map(ToString::to_string);
        match subject.name.as_str() {
            "the reference forms" => assert!(!Operation::ALL.into_iter().any(is_native), "{forms}"),
            "a CPU in f32" => assert!(
                !is_native(Operation::Matmul) && is_native(Operation::Attention),
                "{forms}"
            ),
            "a GPU of CUDA" => assert!(is_native(Operation::Matmul), "{forms}"),
            instructions => assert_eq!(product.as_deref(), Some(instructions), "{forms}"),
        }
        let is_unused = |operation| forms.of(operation) == Some(&Form::Unused);
        let unused: Vec<Operation> = Operation::ALL
            .into_iter()
            .filter(|o| is_unused(*o))
            .collect();
        let copies = [Operation::Prefetch, Operation::Offload];
        let is_on_gpu = subject.backend.device().is_cuda();
        let wanted = if is_on_gpu { &[][..] } else { &copies[..] };
        assert_eq!(unused, wanted, "{}", subject.name);
        Ok(())
    });
}
