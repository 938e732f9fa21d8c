//! RMSNorm, with an offset of its weights and without.

use qlora_kernels::NormWeight;
use qlora_testkit::tensors::elements;

use crate::fixture::{LIMITS, Limits, Mat, on_every};
use crate::oracle;
use crate::slopes::gradient_matches;

/// Rows of fewer elements than a block of a GPU keeps, at multiples of 16 bytes or not, and of more.
const SHAPES: [(usize, usize); 11] = [
    (1, 1),
    (1, 9),
    (3, 97),
    (5, 64),
    (7, 53),
    (17, 1000),
    (3, 1100),
    (3, 4096),
    (2, 4099),
    (2, 16_384),
    (2, 17_000),
];

#[test]
fn rms_norm() {
    for (m, d) in SHAPES {
        norm_agrees(m, d, false);
        norm_agrees(m, d, true);
    }
}

fn norm_agrees(m: usize, d: usize, unit_offset: bool) {
    let [x, dy, base] = [1, 2, 3].map(|seed| Mat::random(m, d, seed, 1.0));
    let weight = Mat::random(1, d, 4, 1.0);
    let factor = weight.map(|w| w + if unit_offset { 1.0 } else { 0.0 });
    let (y, rstd) = oracle::rms_norm(&x, &factor, 1e-5);
    let dx = oracle::rms_norm_backward(&dy, &x, &factor, &rstd);
    let (of_y, of_rstd) = (Limits::steps(1.0), Limits::steps(0.1));
    // Of one element alone the gradient is what epsilon leaves of two numbers that are nearly equal.
    let of_dx = Limits {
        f32: if d == 1 { 1e-2 } else { LIMITS.f32 },
        ..Limits::steps(2.0)
    };
    on_every(|subject| {
        let backend = &subject.backend;
        let [tx, tdy, tbase] = [&x, &dy, &base].map(|t| subject.tensor(t));
        let weight = &subject.tensor(&weight).squeeze(0)?;
        let w = NormWeight {
            weight,
            unit_offset,
        };
        let (ty, trstd) = backend.rms_norm_forward(&tx, w, 1e-5)?;
        subject.within(of_y, "y", &ty, &y);
        subject.within(of_rstd, "rstd", &trstd, &rstd);
        let (on, rstd_on) = backend.rms_norm_forward_on(&tx, w, 1e-5)?;
        subject.within(of_y, "y for products", on.tensor()?, &y);
        subject.within(of_rstd, "rstd for products", &rstd_on, &rstd);
        let alone = backend.rms_norm_backward(&tdy, &tx, w, &trstd, None)?;
        subject.within(of_dx, "dx", &alone, &dx);
        let onto = backend.rms_norm_backward(&tdy, &tx, w, &trstd, Some(&tbase))?;
        subject.within(of_dx, "base + dx", &onto, &dx.plus(&base));
        // Long rows turn the rounding of the sums into more than differences may have.
        if (2..1000).contains(&d) {
            let forward = |x: &_| Ok(backend.rms_norm_forward(x, w, 1e-5)?.0);
            gradient_matches(subject, forward, &tx, &alone, &tdy)?;
        }
        Ok(())
    });
}

/// What an offset is added to is never rounded: weights far below 1 count, as they would not beside
/// 1 in bf16.
#[test]
fn a_norm_with_an_offset_rounds_once() {
    let x = Mat::random(3, 64, 2, 1.0);
    let weight = Mat::new(1, 64, |_, _| 1e-3).rounded();
    on_every(|subject| {
        let w = NormWeight {
            weight: &subject.tensor(&weight).squeeze(0)?,
            unit_offset: true,
        };
        let (y, rstd) = subject
            .backend
            .rms_norm_forward(&subject.tensor(&x), w, 1e-5)?;
        let rstd = elements(&rstd);
        let wanted = Mat::new(3, 64, |i, j| {
            x.at(i, j) * f64::from(rstd[i]) * (1.0 + weight.at(0, j))
        });
        let found = Mat::of(&y).rounded();
        let pairs = wanted.rounded().data.into_iter().zip(&found.data);
        let differ = pairs.filter(|(wanted, found)| wanted != *found).count();
        assert!(
            differ <= 2,
            "on {}: {differ} of 192 are rounded otherwise",
            subject.name
        );
        Ok(())
    });
}
