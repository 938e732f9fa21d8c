//! The output layer, and losses that a device may still be computing.

use candle_core::Tensor;

use crate::Result;
use crate::types::matrix::Matrix;

/// The frozen output layer.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// [V, D].
    pub weight: &'a dyn Matrix,
    /// Rows of logits that are held at one time.
    pub rows: usize,
    /// What logits are multiplied with.
    pub scale: f64,
    /// A soft cap on the scaled logits: l becomes cap * tanh(l / cap).
    pub cap: Option<f32>,
}

impl<'a> Head<'a> {
    /// Logits as the product gives them.
    pub fn new(weight: &'a dyn Matrix, rows: usize) -> Self {
        Self {
            weight,
            rows,
            scale: 1.0,
            cap: None,
        }
    }
}

/// A sum of losses in nats, part of which a device may still be computing.
#[derive(Debug, Default)]
pub struct Loss {
    known: f64,
    /// Losses of single rows.
    pending: Vec<Tensor>,
}

impl Loss {
    /// Both together.
    pub fn plus(mut self, other: Self) -> Self {
        self.known += other.known;
        self.pending.extend(other.pending);
        self
    }

    /// Waits for the device.
    pub fn value(&self) -> Result<f64> {
        let mut sum = self.known;
        for losses in &self.pending {
            sum += losses
                .to_vec1::<f32>()?
                .into_iter()
                .map(f64::from)
                .sum::<f64>();
        }
        Ok(sum)
    }
}

impl From<Vec<Tensor>> for Loss {
    fn from(pending: Vec<Tensor>) -> Self {
        Self {
            known: 0.0,
            pending,
        }
    }
}

impl From<f64> for Loss {
    fn from(known: f64) -> Self {
        Self {
            known,
            pending: Vec::new(),
        }
    }
}

/// Sum of losses, and the gradient with respect to the hidden rows.
#[derive(Debug)]
pub struct LossAndGrad {
    pub sum: Loss,
    /// [L, D]; absent when only the loss was asked for.
    pub grad: Option<Tensor>,
}
