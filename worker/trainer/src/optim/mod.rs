//! The optimizer: AdamW's moments for each adapter tensor, the schedule, and clipping.

pub(crate) mod moments;
mod schedule;

use candle_core::Tensor;
use qlora_config::{OptimizerKind, TrainingSection};
use qlora_kernels::Backend;
use qlora_kernels::types::adamw::{AdamWStep, Moments, Norm, Parameter, SMALLEST_IN_8_BITS};

use crate::Result;
use crate::lora::{Adapters, FactorGrad, Factors, Gradients, NAMES};

pub use schedule::LearningRate;

/// First and second moments of every adapter tensor, in the order of the sites and of their
/// tensors.
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
            OptimizerKind::Adamw8bit if t.elem_count() >= SMALLEST_IN_8_BITS => {
                Ok(Moments::coded(t)?)
            }
            _ => Ok(Moments::full(t)?),
        };
        let moments = adapters
            .factors
            .iter()
            .flat_map(Factors::tensors)
            .map(zeros)
            .collect::<Result<_>>()?;
        Ok(Self {
            moments,
            updates: 0,
        })
    }

    /// Adapters and optimizer after one update along `gradients`, whose norm is scaled down as the
    /// configuration says.
    pub fn updated(
        &self,
        backend: &dyn Backend,
        adapters: &Adapters,
        gradients: &Gradients,
        norm: &Norm,
        learning_rate: f64,
        t: &TrainingSection,
    ) -> Result<(Adapters, Self)> {
        let (rule, group_rule) = self.rules(adapters, learning_rate, t);
        let gradients = contiguous(gradients)?;
        let (mut parameters, mut places) = (Vec::new(), Vec::new());
        let mut moments = self.moments.iter().enumerate();
        for (factors, grads) in adapters.factors.iter().zip(&gradients) {
            for (i, (value, (place, moments))) in factors.tensors().zip(&mut moments).enumerate() {
                let Some(gradient) = grads.get(i) else {
                    continue;
                };
                let rule = if NAMES[i].starts_with("lora_B") {
                    &group_rule
                } else {
                    &rule
                };
                parameters.push(Parameter {
                    value,
                    moments,
                    gradient,
                    rule,
                });
                places.push(place);
            }
        }
        let mut next = Self {
            moments: self.moments.clone(),
            updates: self.updates + 1,
        };
        let mut values = vec![None; self.moments.len()];
        let updated = backend.adamw(&parameters, norm, t.max_grad_norm)?;
        for (place, (value, moments)) in places.into_iter().zip(updated) {
            (values[place], next.moments[place]) = (Some(value), moments);
        }
        let mut updated = adapters.clone();
        let mut values = values.into_iter();
        for factors in &mut updated.factors {
            *factors = factors
                .map(|_, value| Ok(values.next().flatten().unwrap_or_else(|| value.clone())))?;
        }
        Ok((updated, next))
    }

    /// The rule of this update, and that of the factors B.
    fn rules(
        &self,
        adapters: &Adapters,
        learning_rate: f64,
        t: &TrainingSection,
    ) -> (AdamWStep, AdamWStep) {
        let rule = AdamWStep {
            learning_rate,
            beta1: t.adam_beta1,
            beta2: t.adam_beta2,
            epsilon: t.adam_epsilon,
            weight_decay: t.weight_decay,
            step: self.updates + 1,
        };
        (
            rule,
            AdamWStep {
                learning_rate: learning_rate * adapters.config().loraplus_ratio,
                ..rule
            },
        )
    }
}

/// The gradients of every site in the order of its tensors, each in one piece; none where no
/// gradient has arrived.
fn contiguous(gradients: &Gradients) -> Result<Vec<Vec<Tensor>>> {
    let whole = |grad: &FactorGrad| {
        grad.tensors()
            .map(|t| Ok(t.contiguous()?))
            .collect::<Result<Vec<_>>>()
    };
    gradients
        .entries()
        .iter()
        .map(|grad| grad.as_ref().map_or(Ok(Vec::new()), whole))
        .collect()
}
