//! One optimizer step.

use std::ops::Range;

use qlora_config::TrainingSection;
use qlora_kernels::pairwise;
use qlora_kernels::types::adamw::Norm;
use qlora_kernels::types::loss::Loss;
use qlora_planner::SavedActivations;

use crate::lora::{Adapters, FactorGrad, Gradients, MaskPosition};
use crate::model::{Batch, Decoder};
use crate::optim::{LearningRate, Optimizer};
use crate::process_group::{self, ProcessGroup};
use crate::{Result, metal};

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
    /// Which activations each block keeps between forward and backward.
    pub saved: Vec<SavedActivations>,
}

impl Trainer<'_> {
    /// Learns from `batches`, the micro-batches of step `step` (from 0), of which each process of
    /// `group` works on its share.
    ///
    /// A stop that is heard meanwhile ends the step with [`Error::Stopped`](crate::Error::Stopped)
    /// for all of the group, and leaves everything as it was before.
    ///
    /// The step runs on a thread of the pool: from outside, every product would wake the pool and
    /// wait for it.
    pub fn step(
        &mut self,
        step: u64,
        batches: &[Batch],
        group: &mut dyn ProcessGroup,
    ) -> Result<StepOutcome> {
        rayon::scope(|_| metal::autoreleased(|| self.step_on_this_thread(step, batches, group)))
    }

    fn step_on_this_thread(
        &mut self,
        step: u64,
        batches: &[Batch],
        group: &mut dyn ProcessGroup,
    ) -> Result<StepOutcome> {
        // The last step of an epoch may have fewer: the places that are left are empty, so that
        // sums are taken in the same order whoever takes them.
        let places = self.training.gradient_accumulation.max(batches.len());
        let shared = self.share(step, batches, process_group::share(group, places));
        let (losses, mut gradients) = process_group::unless_stopped(group, shared)?;
        if losses.is_empty() {
            gradients = self.no_gradients()?;
        }
        let backend = &*self.decoder.backend;
        let gradients = gradients.summed(backend, group)?;
        let norm = match gradients.norm(backend)? {
            Norm::Known(norm) => Norm::Known(process_group::of_first(group, norm)?),
            on_device => on_device,
        };
        let learning_rate = process_group::of_first(group, self.learning_rate.at(step))?;
        let updated = self.optimizer.updated(
            backend,
            &self.adapters,
            &gradients,
            &norm,
            learning_rate,
            self.training,
        )?;
        // A GPU has been given all its work before anything is waited for.
        let losses = process_group::gather_values(group, &values(&losses)?)?;
        let (loss, grad_norm) = (
            losses.iter().sum::<f64>() * per_token(batches),
            norm.value()?,
        );
        metal::wait(&self.decoder.device)?;
        let skipped = !(loss.is_finite() && grad_norm.is_finite());
        if !skipped {
            (self.adapters, self.optimizer) = updated;
        }
        let tokens = batches.iter().map(Batch::tokens).sum();
        Ok(StepOutcome {
            loss,
            grad_norm,
            learning_rate,
            tokens,
            skipped,
        })
    }

    /// Mean loss over the supervised tokens of all `batches`, and its gradients.
    pub fn gradients(&self, step: u64, batches: &[Batch]) -> Result<(f64, Gradients)> {
        let (losses, gradients) =
            metal::autoreleased(|| self.share(step, batches, 0..batches.len()))?;
        Ok((
            values(&losses)?.iter().sum::<f64>() * per_token(batches),
            gradients,
        ))
    }

    /// Gradients of zero, for a process that no micro-batch of a step is left for.
    fn no_gradients(&self) -> Result<Gradients> {
        let mut gradients = Gradients::none(&self.adapters);
        for (index, factors) in self.adapters.factors.iter().enumerate() {
            let magnitude = factors
                .magnitude
                .as_ref()
                .map(|m| m.value.zeros_like())
                .transpose()?;
            gradients.set(
                index,
                FactorGrad {
                    a: factors.a.zeros_like()?,
                    b: factors.b.zeros_like()?,
                    magnitude,
                },
            );
        }
        Ok(gradients)
    }

    /// Sum of the losses of the supervised tokens of each micro-batch of `share`, and what they
    /// give to the gradients of the mean over all `batches`.
    fn share(
        &self,
        step: u64,
        batches: &[Batch],
        share: Range<usize>,
    ) -> Result<(Vec<Loss>, Gradients)> {
        let scale = per_token(batches);
        let starts: Vec<u64> = batches
            .iter()
            .scan(0, |next, batch| Some(advance(next, batch)))
            .collect();
        let mut losses = Vec::with_capacity(share.len().min(batches.len()));
        let mut pass = |i: usize| {
            if i >= batches.len() {
                return Ok(Gradients::none(&self.adapters));
            }
            let masks = MaskPosition {
                step,
                first_token: starts[i],
            };
            let mut gradients = Gradients::none(&self.adapters);
            let passed = self.decoder.forward(
                &batches[i],
                &self.adapters,
                masks,
                self.training.neftune_alpha,
                &self.saved,
            )?;
            losses.push(self.decoder.backward(
                &batches[i],
                &self.adapters,
                masks,
                passed,
                scale,
                &mut gradients,
            )?);
            Ok(gradients)
        };
        let backend = &*self.decoder.backend;
        let gradients = pairwise(share, &mut pass, &mut |a: Gradients, b| a.plus(backend, b))?;
        Ok((losses, gradients))
    }
}

/// The first token of `batch`, where `next` is the first that is free.
fn advance(next: &mut u64, batch: &Batch) -> u64 {
    let first = *next;
    *next += batch.tokens() as u64;
    first
}

/// Waits for the device.
fn values(losses: &[Loss]) -> Result<Vec<f64>> {
    losses.iter().map(|loss| Ok(loss.value()?)).collect()
}

/// What makes a mean of a sum over the supervised tokens of a step.
fn per_token(batches: &[Batch]) -> f64 {
    1.0 / batches
        .iter()
        .map(|b| b.targets.len())
        .sum::<usize>()
        .max(1) as f64
}
