//! The learning rate of every step.

use std::f64::consts::PI;

use qlora_config::{Schedule, TrainingSection};

use crate::{Error, Result};

/// A peak rate, a warm-up from zero, and a way down; as transformers' schedules of the same names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LearningRate {
    peak: f64,
    /// Share of the peak below which the rate does not fall.
    floor: f64,
    warmup: u64,
    /// Steps of the fall of `wsd`.
    decay: u64,
    steps: u64,
    schedule: Schedule,
}

impl LearningRate {
    /// Shares of `steps` are rounded up to whole steps; a warm-up by share leaves at least one step
    /// for the peak.
    pub fn new(training: &TrainingSection, steps: u64) -> Self {
        let share = |ratio: f64| (ratio * steps as f64).ceil() as u64;
        let by_share = || share(training.warmup_ratio).min(steps.saturating_sub(1));
        Self {
            peak: training.learning_rate,
            floor: training.min_rate_ratio,
            warmup: training.warmup_steps.unwrap_or_else(by_share).min(steps),
            decay: share(training.decay_ratio),
            steps,
            schedule: training.schedule,
        }
    }

    /// Whether a run of `steps` steps reaches the peak rate.
    ///
    /// # Errors
    /// `training.warmup_steps` leaves no step for it.
    pub fn reaches_peak(training: &TrainingSection, steps: u64) -> Result<()> {
        match training.warmup_steps {
            Some(warmup) if warmup >= steps => Err(Error::Config {
                key: "training.warmup_steps",
                fault: format!(
                    "is {warmup}, and the run has {steps} steps: it would never reach its peak rate"
                ),
                help: "lower it, or leave it out to warm up for training.warmup_ratio of the run",
            }),
            _ => Ok(()),
        }
    }

    /// The rate of `step`, counted from 0; the first is 0 where there is a warm-up.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * step as f64 / self.warmup as f64;
        }
        let share = match self.schedule {
            Schedule::Cosine => {
                0.5 * (1.0 + (PI * self.fallen(step, self.steps - self.warmup)).cos())
            }
            Schedule::Linear => 1.0 - self.fallen(step, self.steps - self.warmup),
            Schedule::Constant => return self.peak,
            Schedule::Wsd => 1.0 - self.fallen(step, self.decay.min(self.steps - self.warmup)),
        };
        self.peak * (self.floor + (1.0 - self.floor) * share)
    }

    /// How much of a fall over the last `length` steps has passed before `step`, from 0 to 1.
    fn fallen(&self, step: u64, length: u64) -> f64 {
        let passed = step.saturating_sub(self.steps - length);
        (passed as f64 / length.max(1) as f64).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use qlora_testkit::resolved;

    use super::*;

    fn rates(steps: u64, set: &[&str]) -> Vec<f64> {
        let common = [
            "model.base=tiny",
            "data.train=rows.jsonl",
            "training.learning_rate=1",
        ];
        let config = resolved(&common, set);
        let rate = LearningRate::new(&config.config().training, steps);
        (0..steps).map(|step| rate.at(step)).collect()
    }

    #[test]
    fn a_floor_is_where_a_fall_ends() {
        let cosine = rates(
            101,
            &["training.warmup_steps=1", "training.min_rate_ratio=0.1"],
        );
        assert!((cosine[1] - 1.0).abs() < 1e-12 && (cosine[51] - 0.55).abs() < 1e-12);
        assert!(cosine[100] > 0.1 && cosine[100] < 0.101);
    }

    #[test]
    fn steps_of_warm_up_override_their_ratio() {
        let rising = rates(
            10,
            &[
                "training.warmup_steps=4",
                "training.warmup_ratio=0.9",
                "training.schedule=constant",
            ],
        );
        assert_eq!(rising, [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn every_run_reaches_its_peak() {
        for steps in 1..40 {
            for set in [
                &[][..],
                &["training.warmup_ratio=1.0"],
                &["training.schedule=linear"],
                &["training.warmup_ratio=0.5"],
            ] {
                let rates = rates(steps, set);
                assert!(rates.contains(&1.0), "{steps} steps, {set:?}: {rates:?}");
            }
        }
        let set = [
            "model.base=tiny",
            "data.train=rows.jsonl",
            "training.warmup_steps=5",
        ];
        let config = resolved(&[], &set);
        let fault = LearningRate::reaches_peak(&config.config().training, 5)
            .expect_err("a fault")
            .to_string();
        assert!(fault.contains("training.warmup_steps"), "{fault}");
        assert!(LearningRate::reaches_peak(&config.config().training, 6).is_ok());
    }

    #[test]
    fn wsd_stays_and_then_falls() {
        let set = [
            "training.warmup_steps=2",
            "training.decay_ratio=0.4",
            "training.schedule=wsd",
        ];
        assert_eq!(
            rates(10, &set),
            [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
        );
    }
}
