//! The optimizer: AdamW's moments for each adapter tensor, parameter groups, and the schedule of the
//! learning rate.

mod groups;
pub(crate) mod moments;
mod schedule;

use candle_core::Tensor;
use qlora_config::{OptimizerKind, TrainingSection};
use qlora_kernels::Backend;
use qlora_kernels::types::adamw::{Moments, Norm, Parameter, SMALLEST_IN_8_BITS};

use crate::Result;
use crate::lora::{Adapters, FactorGrad, Factors, Gradients};

use self::groups::ParameterGroup;

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
        let rules = ParameterGroup::of_tensors(adapters.config(), t)
            .map(|group| group.rule(t, learning_rate, self.updates + 1));
        let gradients = contiguous(gradients)?;
        let (mut parameters, mut places) = (Vec::new(), Vec::new());
        let mut moments = self.moments.iter().enumerate();
        for (factors, grads) in adapters.factors.iter().zip(&gradients) {
            let tensors = factors.tensors().zip(&rules).zip(&mut moments);
            for (i, ((value, rule), (place, moments))) in tensors.enumerate() {
                let Some(gradient) = grads.get(i) else {
                    continue;
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
