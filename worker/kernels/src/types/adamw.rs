//! AdamW with decoupled weight decay (Loshchilov and Hutter, 2019), in the order of PyTorch's
//! `AdamW`; its moments in `f32`, or in 8 bits as bitsandbytes' `AdamW8bit` keeps them (Dettmers et
//! al., 2022).

use candle_core::{Device, Tensor};

use crate::Result;

/// Tensors of fewer elements keep their moments in `f32` in any case, as bitsandbytes has it.
pub const SMALLEST_IN_8_BITS: usize = 4096;

/// The rule of one update.
#[derive(Debug, Clone, Copy)]
pub struct AdamWStep {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
    /// Number of this update, from 1.
    pub step: u64,
}

/// What an element's update needs of a rule, rounded once; laid out as the kernels read it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Constants {
    pub beta1: f32,
    pub beta2: f32,
    /// 1 - beta: in `f32` the difference would lose four digits.
    pub one_minus_beta1: f32,
    pub one_minus_beta2: f32,
    pub epsilon: f32,
    /// What decay leaves of a value.
    pub decay: f32,
    pub step: f32,
    pub root: f32,
}

/// First and second moments of a parameter.
#[derive(Debug, Clone)]
pub enum Moments {
    /// `f32`, of the parameter's shape.
    Full {
        first: Tensor,
        second: Tensor,
    },
    Coded {
        first: Coded,
        second: Coded,
    },
}

/// Values in 8 bits: codes [elements] as `u8` and a scale for each 256 of them.
#[derive(Debug, Clone)]
pub struct Coded {
    pub codes: Tensor,
    pub scales: Tensor,
}

impl Coded {
    /// Elements that share a scale.
    pub const BLOCK: usize = 256;

    fn to_device(&self, device: &Device) -> Result<Self> {
        Ok(Self {
            codes: self.codes.to_device(device)?,
            scales: self.scales.to_device(device)?,
        })
    }
}

impl Moments {
    /// Zeros for `value`, in `f32`.
    pub fn full(value: &Tensor) -> Result<Self> {
        Ok(Self::Full {
            first: value.zeros_like()?,
            second: value.zeros_like()?,
        })
    }

    pub(crate) fn to_device(&self, device: &Device) -> Result<Self> {
        Ok(match self {
            Self::Full { first, second } => Self::Full {
                first: first.to_device(device)?,
                second: second.to_device(device)?,
            },
            Self::Coded { first, second } => Self::Coded {
                first: first.to_device(device)?,
                second: second.to_device(device)?,
            },
        })
    }
}

/// A tensor that is trained, and what its update reads.
#[derive(Clone, Copy)]
pub struct Parameter<'a> {
    pub value: &'a Tensor,
    pub moments: &'a Moments,
    /// Of the value's shape, in one piece.
    pub gradient: &'a Tensor,
    pub rule: &'a AdamWStep,
}

/// The L2 norm over tensors, where it was found.
#[derive(Debug, Clone)]
pub enum Norm {
    Known(f64),
    /// One `f32` on a device, perhaps not computed yet.
    OnDevice(Tensor),
}

impl Norm {
    /// Waits for the device.
    pub fn value(&self) -> Result<f64> {
        match self {
            Self::Known(value) => Ok(*value),
            Self::OnDevice(value) => Ok(f64::from(value.flatten_all()?.to_vec1::<f32>()?[0])),
        }
    }
}

/// The factor that brings a gradient of the given norm down to `max_norm`, as PyTorch's
/// `clip_grad_norm_` has it; 0 is no limit.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    if max_norm == 0.0 {
        1.0
    } else {
        (max_norm / (norm + 1e-6)).min(1.0)
    }
}

/// `base` to the power of `n`, by squaring: systems differ in the last place of their own `pow`.
fn power(mut base: f64, mut n: u64) -> f64 {
    let mut product = 1.0;
    while n > 0 {
        if n % 2 == 1 {
            product *= base;
        }
        base *= base;
        n /= 2;
    }
    product
}

impl AdamWStep {
    /// What the kernels read.
    pub fn constants(&self) -> Constants {
        Constants {
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            one_minus_beta1: (1.0 - self.beta1) as f32,
            one_minus_beta2: (1.0 - self.beta2) as f32,
            epsilon: self.epsilon as f32,
            decay: (1.0 - self.learning_rate * self.weight_decay) as f32,
            step: (self.learning_rate / self.correction1()) as f32,
            root: (1.0 / self.correction2().sqrt()) as f32,
        }
    }

    pub(crate) fn correction1(&self) -> f64 {
        1.0 - power(self.beta1, self.step)
    }

    pub(crate) fn correction2(&self) -> f64 {
        1.0 - power(self.beta2, self.step)
    }
}
