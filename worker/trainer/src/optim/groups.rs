//! Parameter groups: what sets the updates of some trained tensors apart from those of others.
//!
//! Clipping is over all groups together, so it is not a setting of a group.

use qlora_config::{LoraConfig, TrainingSection};
use qlora_kernels::types::adamw::AdamWStep;

use crate::lora::NAMES;

/// Tensors that are updated by one rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ParameterGroup {
    /// The learning rate over that of the schedule.
    pub learning_rate_ratio: f64,
    pub weight_decay: f64,
}

impl ParameterGroup {
    /// The group of each tensor of a site, in the order of [`NAMES`]: the factors B learn at LoRA+'s
    /// ratio (Hayou et al., 2024).
    pub fn of_tensors(lora: &LoraConfig, training: &TrainingSection) -> [Self; NAMES.len()] {
        let usual = Self {
            learning_rate_ratio: 1.0,
            weight_decay: training.weight_decay,
        };
        let b = Self {
            learning_rate_ratio: lora.loraplus_ratio,
            ..usual
        };
        [usual, b, usual]
    }

    /// The rule of the update that is number `step`, from 1, at the schedule's `learning_rate`.
    pub fn rule(&self, training: &TrainingSection, learning_rate: f64, step: u64) -> AdamWStep {
        AdamWStep {
            learning_rate: learning_rate * self.learning_rate_ratio,
            beta1: training.adam_beta1,
            beta2: training.adam_beta2,
            epsilon: training.adam_epsilon,
            weight_decay: self.weight_decay,
            step,
        }
    }
}

#[cfg(test)]
mod tests {
    use qlora_testkit::resolved;

    use super::*;

    #[test]
    fn factors_b_learn_at_a_rate_of_their_own() {
        let set = [
            "model.base=tiny",
            "data.train=rows.jsonl",
            "lora.loraplus_ratio=16",
            "training.weight_decay=0.25",
        ];
        let config = resolved(&[], &set);
        let (lora, training) = (&config.config().lora, &config.config().training);
        let rules =
            ParameterGroup::of_tensors(lora, training).map(|group| group.rule(training, 0.5, 3));
        for (name, rule) in NAMES.iter().zip(&rules) {
            let rate = if name.starts_with("lora_B") { 8.0 } else { 0.5 };
            assert_eq!(
                (rule.learning_rate, rule.weight_decay, rule.step),
                (rate, 0.25, 3),
                "{name}"
            );
        }
    }
}
