//! One adapter in one pass through its projection.

use qlora_kernels::{DropoutKey, LoraInput};

use super::{Factors, Magnitude};

/// The adapter of one projection in one pass.
#[derive(Clone, Copy)]
pub struct AdapterPass<'a> {
    pub factors: &'a Factors,
    /// See [`qlora_config::LoraConfig::scale`].
    pub scale: f64,
    /// The dropout mask; none outside training.
    pub mask: Option<DropoutKey>,
}

impl<'a> AdapterPass<'a> {
    pub(crate) fn input(&self) -> LoraInput<'a> {
        LoraInput {
            a: &self.factors.a,
            mask: self.mask,
        }
    }

    /// With DoRA only.
    pub(crate) fn magnitude(&self) -> Option<&'a Magnitude> {
        self.factors.magnitude.as_ref()
    }
}
