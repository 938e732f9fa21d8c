//! The part of a LoRA adapter that reads the input of its projection.

use candle_core::Tensor;

use crate::types::activations::Activations;
use crate::types::dropout::DropoutKey;

/// The A-projection of an adapter.
#[derive(Clone, Copy)]
pub struct LoraInput<'a> {
    /// A [R, K], in `f32`.
    pub a: &'a Tensor,
    /// None outside training.
    pub mask: Option<DropoutKey>,
}

/// What the backward pass of an A-projection reads.
#[derive(Clone, Copy)]
pub struct LoraBackwardInput<'a> {
    pub adapter: LoraInput<'a>,
    /// dU [M, R].
    pub du: &'a Activations,
}
