//! Dropout whose mask is a function of (seed, step, projection, element) and of nothing else.
//!
//! A block that is computed again, a run that is resumed, micro-batches that are split differently and another
//! device all draw the same mask. The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as
//! easy as 1, 2, 3", SC 2011); one call yields eight 16-bit numbers for eight neighbouring elements.

use candle_core::Tensor;

use super::activations::Activations;
use crate::Result;
use crate::cpu;
use crate::view::{on_cpu, tensor, unwritten, view};

/// Names one mask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DropoutKey {
    pub seed: u64,
    /// Optimizer step.
    pub step: u32,
    /// A number of its own for each projection of each layer.
    pub projection: u32,
    /// Index, within the step, of the first row.
    pub first_token: u64,
    pub probability: f64,
}

impl DropoutKey {
    /// An element is dropped where its 16 random bits are below this.
    pub fn threshold(&self) -> u32 {
        (self.probability * 65_536.0).round() as u32
    }

    /// What the elements that stay are multiplied with.
    pub fn kept(&self) -> f32 {
        (1.0 / (1.0 - self.probability)) as f32
    }
}

/// `mask * x / (1 - p)` for `x` [M, D], in bf16 where it is; it is its own backward pass when applied to the gradient.
pub fn apply(x: &Activations, key: &DropoutKey) -> Result<Activations> {
    match x.own_rows() {
        Some(rows) => Ok(cpu::dropout::apply_rows(rows, key).into()),
        None => Ok(masked(x.tensor()?, key, None)?.into()),
    }
}

/// `base` + `mask * x / (1 - p)`; see [`apply`].
pub fn add(x: &Tensor, key: &DropoutKey, base: Option<&Tensor>) -> Result<Tensor> {
    masked(x, key, base)
}

fn masked(x: &Tensor, key: &DropoutKey, base: Option<&Tensor>) -> Result<Tensor> {
    let (m, d) = x.dims2()?;
    if on_cpu(&[x]) {
        let base = base.map(view).transpose()?;
        let mut y = unwritten(m * d);
        cpu::dropout::apply(&view(x)?, d, key, base.as_deref(), &mut y);
        return tensor(y, (m, d));
    }
    #[cfg(feature = "cuda")]
    if crate::cuda::applies(&[x]) && base.is_none_or(|base| crate::cuda::applies(&[base])) {
        return crate::cuda::dropout::add(x, key, base);
    }
    let mut mask = vec![0f32; m * d];
    cpu::dropout::apply(&vec![1f32; m * d], d, key, None, &mut mask);
    let masked = (x * Tensor::from_vec(mask, (m, d), x.device())?.to_dtype(x.dtype())?)?;
    base.map_or(Ok(masked.clone()), |base| base + masked)
}
