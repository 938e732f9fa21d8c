//! The optimizer: AdamW's moments for each adapter tensor, the schedule, and clipping.

pub(crate) mod moments;
mod schedule;

use candle_core::Tensor;
use qlora_config::{OptimizerKind, TrainingSection};
use qlora_kernels::ops::adamw::{AdamW, Moments, SMALLEST_IN_8_BITS};

use crate::Result;
use crate::lora::{Adapters, Factors, Gradients, NAMES};

pub use schedule::LearningRate;

/// First and second moments of every adapter tensor, in the order of the sites and of their tensors.
#[derive(Debug, Clone)]
pub struct Optimizer {
    pub moments: Vec<Moments>,
    /// Updates made so far.
    pub updates: u64,
}

impl Optimizer {
    /// Moments of zero, held as `form` says.
    pub fn new(adapters: &Adapters, form: OptimizerKind) -> Result<Self> {
        let zeros = |t: &Tensor| match form {
            OptimizerKind::Adamw8bit if t.elem_count() >= SMALLEST_IN_8_BITS => Ok(Moments::coded(t)?),
            _ => Ok(Moments::full(t)?),
        };
        let moments = adapters.factors.iter().flat_map(Factors::tensors).map(zeros).collect::<Result<_>>()?;
        Ok(Self { moments, updates: 0 })
    }

    /// One update of all adapters along `gradients` times `scale`.
    pub fn update(
        &mut self,
        adapters: &mut Adapters,
        gradients: &Gradients,
        scale: f64,
        learning_rate: f64,
        t: &TrainingSection,
    ) -> Result<()> {
        self.updates += 1;
        let rule = AdamW {
            learning_rate,
            beta1: t.adam_beta1,
            beta2: t.adam_beta2,
            epsilon: t.adam_epsilon,
            weight_decay: t.weight_decay,
            step: self.updates,
        };
        let faster = AdamW { learning_rate: learning_rate * adapters.config().loraplus_ratio, ..rule };
        let mut first = 0;
        for (factors, grad) in adapters.factors.iter_mut().zip(gradients.entries()) {
            let moments = &mut self.moments[first..];
            first += factors.tensors().count();
            let Some(grad) = grad else { continue };
            let grads: Vec<&Tensor> = grad.tensors().collect();
            *factors = factors.map(|i, value| {
                let rule = if NAMES[i].starts_with("lora_B") { &faster } else { &rule };
                let (value, moved) = rule.update(value, &moments[i], &grads[i].contiguous()?, scale)?;
                moments[i] = moved;
                Ok(value)
            })?;
        }
        Ok(())
    }
}

/// The factor that brings a gradient of the given norm down to `max_norm`, as PyTorch's `clip_grad_norm_` has it.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    if max_norm == 0.0 { 1.0 } else { (max_norm / (norm + 1e-6)).min(1.0) }
}
