//! One adapter in one pass through its projection.

use qlora_kernels::{DropoutKey, LoraInput};

use super::Factors;

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

    pub(crate) fn is_decomposed(&self) -> bool {
        self.factors.magnitude.is_some()
    }
}
