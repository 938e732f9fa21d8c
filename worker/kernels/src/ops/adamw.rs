//! AdamW with decoupled weight decay (Loshchilov and Hutter, 2019), in the order of PyTorch's `AdamW`.

use candle_core::Tensor;

use crate::Result;
use crate::cpu;
use crate::view::{on_cpu, tensor, view};

/// The constants of one update.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
    /// Number of this update, from 1.
    pub step: u64,
}

/// A parameter with its moments, all `f32` of one shape.
#[derive(Debug, Clone)]
pub struct State {
    pub value: Tensor,
    pub first: Tensor,
    pub second: Tensor,
}

impl AdamW {
    /// `state` after one step along `gradient`, which is first multiplied by `scale`.
    pub fn update(&self, state: &State, gradient: &Tensor, scale: f64) -> Result<State> {
        if !on_cpu(&[&state.value, &state.first, &state.second, gradient]) {
            return self.reference(state, gradient, scale);
        }
        let mut value = view(&state.value)?.to_vec();
        let mut first = view(&state.first)?.to_vec();
        let mut second = view(&state.second)?.to_vec();
        cpu::adamw::update(self, scale as f32, &view(gradient)?, &mut value, &mut first, &mut second);
        let shape = state.value.dims();
        Ok(State { value: tensor(value, shape)?, first: tensor(first, shape)?, second: tensor(second, shape)? })
    }

    /// [`Self::update`] in candle's operations.
    pub fn reference(&self, state: &State, gradient: &Tensor, scale: f64) -> Result<State> {
        let g = (gradient * scale)?;
        let first = ((&state.first * self.beta1)? + (&g * (1.0 - self.beta1))?)?;
        let second = ((&state.second * self.beta2)? + (g.sqr()? * (1.0 - self.beta2))?)?;
        let root = (second.sqrt()? / self.correction2().sqrt())?;
        let step = (&first / (root + self.epsilon)?)?;
        let decayed = (&state.value * (1.0 - self.learning_rate * self.weight_decay))?;
        let value = (decayed - (step * (self.learning_rate / self.correction1()))?)?;
        Ok(State { value, first, second })
    }

    pub(crate) fn correction1(&self) -> f64 {
        1.0 - self.beta1.powf(self.step as f64)
    }

    pub(crate) fn correction2(&self) -> f64 {
        1.0 - self.beta2.powf(self.step as f64)
    }
}
