//! The learning rate of every step.

use std::f64::consts::PI;

use qlora_config::{Schedule, TrainingSection};

/// A peak rate, a warm-up from zero, and a way down; as transformers' schedules of the same names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LearningRate {
    peak: f64,
    warmup: u64,
    steps: u64,
    schedule: Schedule,
}

impl LearningRate {
    /// Warm-up takes ceil(ratio * steps) steps.
    pub fn new(training: &TrainingSection, steps: u64) -> Self {
        let warmup = (training.warmup_ratio * steps as f64).ceil() as u64;
        Self { peak: training.learning_rate, warmup, steps, schedule: training.schedule }
    }

    /// The rate of `step`, counted from 0; the first is 0 where there is a warm-up.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * step as f64 / self.warmup as f64;
        }
        let down = (self.steps - self.warmup).max(1) as f64;
        let progress = ((step - self.warmup) as f64 / down).min(1.0);
        self.peak
            * match self.schedule {
                Schedule::Cosine => 0.5 * (1.0 + (PI * progress).cos()),
                Schedule::Linear => 1.0 - progress,
                Schedule::Constant => 1.0,
            }
    }
}
