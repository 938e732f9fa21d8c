//! What the sub-layers of a pass share, and a linear layer at its place in the model.

use candle_core::Tensor;
use qlora_config::TargetModule;
use qlora_kernels::{Activations, Backend, RopeTable, Sequences};

use super::linear::{self, AdapterSaved, Linear, LinearGrad};
use crate::Result;
use crate::lora::{AdapterPass, Adapters, FactorGrad, Gradients, MaskPosition};
use crate::stop::StopSignal;

/// A linear layer, and where it stands.
pub struct LinearAt {
    pub layer: usize,
    pub module: TargetModule,
    pub linear: Linear,
}

/// What every block of a pass shares.
pub struct Pass<'a> {
    /// Those of the model; a block names its own by its place.
    pub ropes: &'a [RopeTable],
    pub backend: &'a dyn Backend,
    pub sequences: Sequences,
    pub adapters: &'a Adapters,
    /// Where the dropout masks are drawn from; none outside training.
    pub masks: Option<MaskPosition>,
    /// Asked before each part of a block.
    pub stop: &'a StopSignal,
}

/// A layer, the gradient that reaches it, and what its adapter saved.
pub type Part<'a> = (&'a LinearAt, &'a Activations, Option<&'a AdapterSaved>);

impl<'a> Pass<'a> {
    pub fn adapter(&self, at: &LinearAt) -> Option<AdapterPass<'a>> {
        self.adapters.pass(at.layer, at.module, self.masks)
    }

    /// What the adapters of layers that share the input `x` save, where it is not `known`.
    pub fn lora_forward(
        &self,
        layers: &[LinearAt],
        x: &Activations,
        known: &mut [Option<AdapterSaved>],
    ) -> Result<()> {
        let adapters: Vec<_> = layers.iter().map(|at| self.adapter(at)).collect();
        linear::lora_forward(self.backend, x, &adapters, known)
    }

    /// See [`Linear::forward`].
    pub fn forward(
        &self,
        at: &LinearAt,
        x: &Activations,
        known: Option<AdapterSaved>,
        base: Option<&Tensor>,
    ) -> Result<(Tensor, Option<AdapterSaved>)> {
        at.linear
            .forward(self.backend, x, self.adapter(at), known, base)
    }

    /// See [`Linear::forward_on`].
    pub fn forward_on(
        &self,
        at: &LinearAt,
        x: &Activations,
        known: Option<AdapterSaved>,
    ) -> Result<(Activations, Option<AdapterSaved>)> {
        at.linear
            .forward_on(self.backend, x, self.adapter(at), known)
    }

    /// The gradient of the input `x`, which `parts` share; gradients of their adapters go to
    /// `grads`.
    pub fn backward(
        &self,
        parts: &[Part<'_>],
        x: Option<&Activations>,
        grads: &mut Gradients,
    ) -> Result<Tensor> {
        let reaching: Vec<_> = parts
            .iter()
            .map(|&(at, dy, saved)| LinearGrad {
                linear: &at.linear,
                dy,
                adapter: self.adapter(at),
                saved,
            })
            .collect();
        let (dx, found) = linear::backward(self.backend, &reaching, x)?;
        self.collect(parts.iter().map(|part| part.0), found, grads);
        Ok(dx)
    }

    /// Gives the gradients that were found at `layers` to those of the run.
    pub fn collect<'l>(
        &self,
        layers: impl IntoIterator<Item = &'l LinearAt>,
        found: Vec<Option<FactorGrad>>,
        grads: &mut Gradients,
    ) {
        for (at, grad) in layers.into_iter().zip(found) {
            if let (Some(grad), Some(index)) = (grad, self.adapters.index(at.layer, at.module)) {
                grads.set(index, grad);
            }
        }
    }
}
