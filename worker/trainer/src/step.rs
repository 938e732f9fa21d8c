//! One optimizer step.

use qlora_config::TrainingSection;
use qlora_kernels::ops::cross_entropy::Loss;
use qlora_planner::Keep;

use crate::Result;
use crate::lora::{Adapters, Gradients, MaskPosition};
use crate::model::{Batch, Decoder};
use crate::optim::{LearningRate, Optimizer};

/// What one step did.
#[derive(Debug, Clone, PartialEq)]
pub struct StepOutcome {
    /// Mean over the supervised tokens of all micro-batches, in nats.
    pub loss: f64,
    /// L2 norm before clipping.
    pub grad_norm: f64,
    pub learning_rate: f64,
    pub tokens: usize,
    /// The loss or the gradient was not finite, and the adapters were left as they were.
    pub skipped: bool,
}

/// Everything that a step changes.
pub struct Trainer<'a> {
    pub decoder: &'a Decoder,
    pub adapters: Adapters,
    pub optimizer: Optimizer,
    pub training: &'a TrainingSection,
    pub learning_rate: LearningRate,
    /// What is kept of each block between forward and backward.
    pub keeps: Vec<Keep>,
}

impl Trainer<'_> {
    /// Learns from `batches`, the micro-batches of step `step` (from 0).
    ///
    /// The step runs on a thread of the pool: from outside, every product would wake the pool and wait for it.
    pub fn step(&mut self, step: u64, batches: &[Batch]) -> Result<StepOutcome> {
        rayon::scope(|_| self.step_on_this_thread(step, batches))
    }

    fn step_on_this_thread(&mut self, step: u64, batches: &[Batch]) -> Result<StepOutcome> {
        let (loss, gradients) = self.losses_and_gradients(step, batches)?;
        let norm = gradients.norm()?;
        let learning_rate = self.learning_rate.at(step);
        let updated = self.optimizer.updated(&self.adapters, &gradients, &norm, learning_rate, self.training)?;
        // A GPU has been given all its work before anything is waited for.
        let (loss, grad_norm) = (loss.value()? * per_token(batches), norm.value()?);
        let skipped = !(loss.is_finite() && grad_norm.is_finite());
        if !skipped {
            (self.adapters, self.optimizer) = updated;
        }
        let tokens = batches.iter().map(Batch::tokens).sum();
        Ok(StepOutcome { loss, grad_norm, learning_rate, tokens, skipped })
    }

    /// Mean loss over the supervised tokens of all `batches`, and its gradients.
    pub fn gradients(&self, step: u64, batches: &[Batch]) -> Result<(f64, Gradients)> {
        let (loss, gradients) = self.losses_and_gradients(step, batches)?;
        Ok((loss.value()? * per_token(batches), gradients))
    }

    /// Sum of the losses of all supervised tokens, and gradients of their mean.
    fn losses_and_gradients(&self, step: u64, batches: &[Batch]) -> Result<(Loss, Gradients)> {
        let scale = per_token(batches);
        let mut gradients = Gradients::none(&self.adapters);
        let (mut loss, mut first_token) = (Loss::default(), 0u64);
        for batch in batches {
            let masks = MaskPosition { step, first_token };
            let passed = self.decoder.forward(batch, &self.adapters, masks, self.training, &self.keeps)?;
            loss = loss.plus(self.decoder.backward(batch, &self.adapters, masks, passed, scale, &mut gradients)?);
            first_token += batch.tokens() as u64;
        }
        Ok((loss, gradients))
    }
}

/// What makes a mean of a sum over the supervised tokens of a step.
fn per_token(batches: &[Batch]) -> f64 {
    1.0 / batches.iter().map(|b| b.targets.len()).sum::<usize>().max(1) as f64
}
