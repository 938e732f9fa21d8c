//! The optimizer: one AdamW state for each adapter tensor, the schedule, and clipping.

mod schedule;

use candle_core::Tensor;
use qlora_config::TrainingSection;
use qlora_kernels::ops::adamw::{AdamW, State};

use crate::Result;
use crate::lora::{Adapters, Gradients, LoraPair};

pub use schedule::LearningRate;

/// First and second moments of every adapter tensor, A and B of each site in turn.
#[derive(Debug, Clone)]
pub struct Optimizer {
    pub moments: Vec<(Tensor, Tensor)>,
    /// Updates made so far.
    pub updates: u64,
}

impl Optimizer {
    pub fn new(adapters: &Adapters) -> Result<Self> {
        let zeros = |t: &Tensor| Ok((t.zeros_like()?, t.zeros_like()?));
        let moments = adapters.pairs.iter().flat_map(|p| [&p.a, &p.b]).map(zeros).collect::<Result<_>>()?;
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
        for (site, (pair, grad)) in adapters.pairs.iter_mut().zip(gradients.entries()).enumerate() {
            let Some(grad) = grad else { continue };
            *pair = LoraPair {
                a: self.tensor(&rule, 2 * site, &pair.a, &grad.a, scale)?,
                b: self.tensor(&faster, 2 * site + 1, &pair.b, &grad.b, scale)?,
            };
        }
        Ok(())
    }

    fn tensor(&mut self, rule: &AdamW, index: usize, value: &Tensor, grad: &Tensor, scale: f64) -> Result<Tensor> {
        let (first, second) = self.moments[index].clone();
        let state = rule.update(&State { value: value.clone(), first, second }, &grad.contiguous()?, scale)?;
        self.moments[index] = (state.first, state.second);
        Ok(state.value)
    }
}

/// The factor that brings a gradient of the given norm down to `max_norm`, as PyTorch's `clip_grad_norm_` has it.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    if max_norm == 0.0 { 1.0 } else { (max_norm / (norm + 1e-6)).min(1.0) }
}
