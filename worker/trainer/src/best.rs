//! The adapter with the lowest held-out loss so far.

use serde::{Deserialize, Serialize};

use crate::lora::Adapters;

/// How the evaluations went; part of every checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BestMark {
    pub step: u64,
    /// Held-out loss in nats a token.
    pub loss: f64,
    /// Evaluations since, none of which was lower.
    pub stale: u64,
}

/// Follows the held-out loss of a run.
#[derive(Debug, Clone, Default)]
pub struct Best {
    pub mark: Option<BestMark>,
    /// The adapter of that step, where it is to be kept.
    pub adapters: Option<Adapters>,
}

impl Best {
    /// Takes note of an evaluation after `step`; a loss that is no number is no improvement.
    pub fn note(&mut self, step: u64, loss: f64, adapters: &Adapters, keep: bool) {
        let lower = !loss.is_nan() && self.mark.is_none_or(|mark| loss < mark.loss);
        if lower {
            self.mark = Some(BestMark {
                step,
                loss,
                stale: 0,
            });
            self.adapters = keep.then(|| adapters.clone());
        } else if let Some(mark) = &mut self.mark {
            mark.stale += 1;
        }
    }

    /// Evaluations in a row that were not lower.
    pub fn stale(&self) -> u64 {
        self.mark.map_or(0, |mark| mark.stale)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_loss_that_is_no_number_is_never_the_best() {
        let shape = &qlora_planner::catalogue()[0].shape;
        let adapters = Adapters::without_effect(shape, &Device::Cpu).expect("adapters");
        let mut best = Best::default();
        best.note(1, f64::NAN, &adapters, true);
        assert!(best.mark.is_none() && best.adapters.is_none());
        best.note(2, 1.5, &adapters, true);
        best.note(3, f64::NAN, &adapters, true);
        let mark = best.mark.expect("a mark");
        assert_eq!((mark.step, mark.stale), (2, 1));
    }
}
