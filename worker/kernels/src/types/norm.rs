//! The frozen weight of a norm.

use candle_core::Tensor;

/// What the elements of a normed row are multiplied with.
#[derive(Debug, Clone, Copy)]
pub struct NormWeight<'a> {
    /// [D].
    pub weight: &'a Tensor,
    /// The factor is 1 + weight, found in `f32` and never rounded by itself, as Gemma's norms have
    /// it.
    pub unit_offset: bool,
}

impl NormWeight<'_> {
    /// What is added to the weight.
    pub(crate) fn offset(&self) -> f32 {
        if self.unit_offset { 1.0 } else { 0.0 }
    }
}

impl<'a> From<&'a Tensor> for NormWeight<'a> {
    /// The weight is the factor.
    fn from(weight: &'a Tensor) -> Self {
        Self {
            weight,
            unit_offset: false,
        }
    }
}
