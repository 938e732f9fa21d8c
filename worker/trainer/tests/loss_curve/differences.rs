//! How two curves differ, and by how much they may.

use serde::Serialize;

use crate::recording::Curve;

/// Steps at the end of a run whose mean loss is compared.
const TAIL: usize = 20;

/// Differences of two series, or limits on them.
#[derive(Clone, Copy, Serialize)]
pub struct Difference {
    pub largest: f64,
    pub mean: f64,
}

/// Differences of two curves, or limits on them; those of gradient norms are relative, and so is
/// that of the mean loss of the last [`TAIL`] steps.
#[derive(Clone, Copy, Serialize)]
pub struct Differences {
    pub loss: Difference,
    pub grad_norm: Difference,
    pub tail: f64,
}

/// What sums in another order do in f32, with a margin: 60 and 200 stable steps on models of the
/// fixture's size differ by up to 5e-6 in loss and 2e-5 in gradient norm. A learning rate too high
/// for a stable run magnifies rounding beyond these limits.
pub const ROUNDING_OF_F32: Differences = Differences {
    loss: Difference {
        largest: 2e-5,
        mean: 5e-6,
    },
    grad_norm: Difference {
        largest: 1e-4,
        mean: 2e-5,
    },
    tail: 2e-6,
};

pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

pub fn tail(values: &[f64]) -> &[f64] {
    &values[values.len().saturating_sub(TAIL)..]
}

/// The size of a difference; that of no number is infinite, so that no limit allows it.
fn size(difference: f64) -> f64 {
    if difference.is_nan() {
        f64::INFINITY
    } else {
        difference.abs()
    }
}

impl Difference {
    fn of(differences: impl Iterator<Item = f64>) -> Self {
        let all: Vec<f64> = differences.map(size).collect();
        Self {
            largest: all.iter().copied().fold(0.0, f64::max),
            mean: mean(&all),
        }
    }
}

impl Differences {
    pub fn between(found: &Curve, wanted: &Curve) -> Self {
        assert_eq!(found.loss.len(), wanted.loss.len());
        let loss = found.loss.iter().zip(&wanted.loss).map(|(a, b)| a - b);
        // Alike in both directions where a norm is a multiple of the other.
        let norm = found
            .grad_norm
            .iter()
            .zip(&wanted.grad_norm)
            .map(|(a, b)| (a / b).ln());
        let ends = mean(tail(&found.loss)) / mean(tail(&wanted.loss)) - 1.0;
        Self {
            loss: Difference::of(loss),
            grad_norm: Difference::of(norm),
            tail: size(ends),
        }
    }

    /// Limits on what a second computation in bf16 may differ from the peer's, where the peer's own
    /// rounding made its bf16 differ by `self` from its fp32.
    ///
    /// Two computations round independently, so their difference is about the square root of two
    /// times the rounding of one. Means over all steps get a factor of 2; a largest value scatters
    /// more and gets 3. Replays of nine recordings on small models used at most 0.6 of these
    /// limits.
    pub fn limits_in_bf16(&self) -> Self {
        let wider = |d: Difference| Difference {
            largest: 3.0 * d.largest,
            mean: 2.0 * d.mean,
        };
        Self {
            loss: wider(self.loss),
            grad_norm: wider(self.grad_norm),
            tail: 0.01,
        }
    }

    /// Each difference that is over its limit, in words.
    pub fn over(&self, limits: &Self) -> Vec<String> {
        let checks = [
            (
                "largest difference of losses",
                self.loss.largest,
                limits.loss.largest,
            ),
            (
                "mean difference of losses",
                self.loss.mean,
                limits.loss.mean,
            ),
            (
                "largest difference of logarithms of gradient norms",
                self.grad_norm.largest,
                limits.grad_norm.largest,
            ),
            (
                "mean difference of logarithms of gradient norms",
                self.grad_norm.mean,
                limits.grad_norm.mean,
            ),
            (
                "relative difference of the mean loss at the end",
                self.tail,
                limits.tail,
            ),
        ];
        let over = checks.into_iter().filter(|(_, found, limit)| found > limit);
        over.map(|(what, found, limit)| format!("{what}: {found:.2e}, over {limit:.2e}"))
            .collect()
    }
}
