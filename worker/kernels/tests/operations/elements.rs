//! Operations whose elements or rows stand for themselves, but for norms and NF4, and for what is
//! only moved.

use candle_core::{DType, Device, Tensor};
use qlora_kernels::{Activations, Backend, DropoutKey, GateFunction, RopeAngles, RopeTable, Span};

use crate::fixture::{LIMITS, Limits, Mat, on_every};
use crate::oracle;
use crate::slopes::gradient_matches;

#[test]
fn gated_activations() {
    for (m, d) in [(5, 37), (31, 143)] {
        for gate in [GateFunction::Silu, GateFunction::GeluTanh] {
            gate_agrees(gate, m, d);
        }
    }
}

fn gate_agrees(gate: GateFunction, m: usize, d: usize) {
    let g = Mat::random(m, d, 1, 6.0);
    let [up, dh] = [2, 3].map(|seed| Mat::random(m, d, seed, 1.0));
    let h = oracle::glu(gate, &g, &up);
    let (dg, dup) = oracle::glu_backward(gate, &dh, &g, &up);
    let limits = Limits::steps(2.0);
    on_every(|subject| {
        let backend = &subject.backend;
        let [tg, tup, tdh] = [&g, &up, &dh].map(|t| subject.tensor(t));
        let (ag, aup) = (Activations::from(&tg), Activations::from(&tup));
        let found = backend.glu_forward(gate, &ag, &aup)?;
        subject.within(limits, "h", found.tensor()?, &h);
        let (found_dg, found_dup) = backend.glu_backward(gate, &(&tdh).into(), &ag, &aup)?;
        let (found_dg, found_dup) = (found_dg.tensor()?, found_dup.tensor()?);
        subject.within(limits, "dg", found_dg, &dg);
        subject.within(limits, "dup", found_dup, &dup);
        // Over dh, which nothing else holds: the same numbers.
        let own = subject.tensor(&dh).into();
        let (over_dg, over_dup) = backend.glu_backward_over(gate, own, &ag, &aup)?;
        subject.same("dg over dh", over_dg.tensor()?, &Mat::of(found_dg));
        subject.same("dup over dh", over_dup.tensor()?, &Mat::of(found_dup));
        let forward = |g: &Tensor, up: &Tensor| {
            let h = backend.glu_forward(gate, &g.into(), &up.into())?;
            h.tensor().cloned()
        };
        gradient_matches(subject, |g| forward(g, &tup), &tg, found_dg, &tdh)?;
        gradient_matches(subject, |up| forward(&tg, up), &tup, found_dup, &tdh)
    });
}

/// Gates far from zero: nothing becomes infinite or no number.
#[test]
fn gates_saturate() {
    let far = [-3e4, -100.0, -20.0, 20.0, 100.0, 3e4];
    let (g, one) = (
        Mat::new(1, 6, |_, j| far[j]).rounded(),
        Mat::new(1, 6, |_, _| 1.0),
    );
    let (kept, open) = (g.map(|g| g.max(0.0)), g.map(|g| f64::from(g > 0.0)));
    for gate in [GateFunction::Silu, GateFunction::GeluTanh] {
        on_every(|subject| {
            let backend = &subject.backend;
            let [tg, tone] = [&g, &one].map(|t| Activations::from(subject.tensor(t)));
            let close = |found: &Tensor, wanted: &Mat| {
                let found = Mat::of(found);
                let off = found.map2(wanted, |a, b| f64::from((a - b).abs() > 1e-6 || a.is_nan()));
                assert!(
                    off.data.iter().all(|&off| off == 0.0),
                    "{gate:?} on {}: {found:?}",
                    subject.name
                );
            };
            close(backend.glu_forward(gate, &tg, &tone)?.tensor()?, &kept);
            let (dg, dup) = backend.glu_backward(gate, &tone, &tg, &tone)?;
            close(dg.tensor()?, &open);
            close(dup.tensor()?, &kept);
            Ok(())
        });
    }
}

#[test]
fn scale_and_bias() {
    // Rows of whole runs of eight, and others; and of more than a block of a GPU has threads.
    for (m, d) in [(3, 7), (5, 37), (5, 64), (2, 17_000)] {
        let (x, bias) = (Mat::random(m, d, 1, 1.0), Mat::random(1, d, 2, 1.0));
        let other = Mat::random(1, d + 1, 2, 1.0);
        for scale in [1.0, 0.7, 1.75] {
            let scaled = x.scaled(scale);
            let shifted = Mat::new(m, d, |i, j| scaled.at(i, j) + bias.at(0, j));
            on_every(|subject| {
                let (tx, tbias) = (subject.tensor(&x), subject.tensor(&bias).squeeze(0)?);
                let affine = |bias| subject.backend.affine(&tx, scale, bias);
                let limits = Limits::steps(1.0);
                subject.within(limits, "scaled", &affine(None)?, &scaled);
                subject.within(limits, "with a bias", &affine(Some(&tbias))?, &shifted);
                let other = subject.tensor(&other).squeeze(0)?;
                assert!(affine(Some(&other)).is_err(), "{}", subject.name);
                Ok(())
            });
        }
    }
}

#[test]
fn rope() {
    // Pair by pair, and eight pairs at a time.
    for pairs in [4, 6, 24] {
        rotation_agrees(2 * pairs, pairs, 0.8, 1.0);
        rotation_agrees(2 * pairs, pairs, 0.8, 1.25);
    }
    rotation_agrees(12, 6, 10_000f32.powf(-1.0 / 6.0), 1.0);
}

/// The rest of a head stays, whatever the factor.
#[test]
fn rope_of_a_part_of_a_head() {
    // E and P; the rest is a multiple of eight elements behind whole eights of pairs, is not, and
    // comes one by one.
    for (head_dim, pairs) in [(48, 16), (20, 8), (64, 8), (96, 36), (32, 12), (10, 2)] {
        for factor in [1.0, 1.25, 1.375] {
            rotation_agrees(head_dim, pairs, 0.8, factor);
        }
    }
    rotation_agrees(48, 24, 0.8, 1.375);
}

/// With frequencies that are powers of `base`, over whole sequences and over tokens that others came
/// before.
fn rotation_agrees(head_dim: usize, pairs: usize, base: f32, factor: f32) {
    let mut spans = Span::packed(&[3, 2]);
    spans.push(Span { q: 5..6, k: 5..45 });
    spans.push(Span {
        q: 6..9,
        k: 45..109,
    });
    let positions = [0, 1, 2, 0, 1, 39, 61, 62, 63];
    let angles = RopeAngles {
        inv_freq: (0..pairs as i32).map(|i| base.powi(i)).collect(),
        head_dim,
        factor,
    };
    let x = Mat::random(9, 3 * head_dim, 7, 1.0);
    let wanted = |sign| oracle::rope(&x, &positions, &angles, sign);
    let limits = Limits::steps(1.0);
    on_every(|subject| {
        let backend = &subject.backend;
        let table = RopeTable::new(&angles, 64, backend.device())?;
        let (rows, tx) = (backend.sequences(&spans)?, subject.tensor(&x));
        assert_eq!(rows.positions(), positions);
        let forward = backend.rope_forward(&table, &tx, &rows)?;
        subject.within(limits, "forward", &forward, &wanted(1.0));
        let backward = backend.rope_backward(&table, &tx, &rows)?;
        subject.within(limits, "backward", &backward, &wanted(-1.0));
        if factor == 1.0 {
            let back = backend.rope_backward(&table, &forward, &rows)?;
            subject.close("there and back", &back, &x);
        }
        Ok(())
    });
}

/// All backends draw one mask.
#[test]
fn dropout() {
    let (ones, x, base) = (
        Mat::new(9, 37, |_, _| 1.0),
        Mat::random(9, 37, 1, 1.0),
        Mat::random(9, 37, 2, 1.0),
    );
    let key = DropoutKey {
        seed: 0x1234_5678_9abc,
        step: 9,
        projection: 77,
        first_token: 3,
        probability: 0.3,
    };
    let mask = |backend: &dyn Backend, ones: Tensor| {
        let masked = backend.dropout(&ones.into(), &key)?;
        masked
            .tensor()?
            .to_device(&Device::Cpu)?
            .to_dtype(DType::F32)?
            .flatten_all()?
            .to_vec1::<f32>()
    };
    let reference = qlora_kernels::backend::reference(&Device::Cpu, DType::F32);
    let drawn = mask(
        &*reference,
        Tensor::ones((9, 37), DType::F32, &Device::Cpu).expect("ones"),
    );
    let drawn = drawn.expect("a mask");
    assert!(
        drawn.contains(&0.0)
            && drawn
                .iter()
                .all(|&f| f == 0.0 || (f - 1.0 / 0.7).abs() < 1e-6)
    );
    let kept = Mat::new(9, 37, |i, j| f64::from(drawn[i * 37 + j]));
    on_every(|subject| {
        let backend = &subject.backend;
        let found = mask(&**backend, subject.tensor(&ones))?;
        assert!(
            found
                .iter()
                .zip(&drawn)
                .all(|(a, b)| (*a == 0.0) == (*b == 0.0)),
            "{}",
            subject.name
        );
        // Kept elements are rounded once, to what the backend computes in.
        let wanted = x.map2(&kept, |x, f| x * f);
        let wanted_here = if subject.is_gpu() {
            wanted.rounded()
        } else {
            wanted.clone()
        };
        let limits = Limits { gpu: 0.0, ..LIMITS };
        let tx = subject.tensor(&x);
        let masked = backend.dropout(&(&tx).into(), &key)?;
        subject.close("masked", masked.tensor()?, &wanted);
        let onto_nothing = backend.add_dropout(&tx, &key, None)?;
        subject.within(limits, "masked alone", &onto_nothing, &wanted_here);
        let onto = backend.add_dropout(&tx, &key, Some(&subject.tensor(&base)))?;
        subject.within(
            Limits::steps(1.0),
            "base + masked",
            &onto,
            &wanted.plus(&base),
        );
        Ok(())
    });
}
