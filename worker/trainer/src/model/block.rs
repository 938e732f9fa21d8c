//! One decoder block: attention, then the feed-forward layer, each with a backward pass by hand.

use candle_core::Tensor;
use qlora_config::TargetModule;
use qlora_kernels::Backend;
use qlora_kernels::types::offload::Offloaded;
use qlora_planner::SavedActivations;

use super::attention::{self, Attention, LayerCache};
use super::linear::{AdapterSaved, Linear};
use super::mlp::{self, Mlp};
use super::pass::{LinearAt, Pass};
use crate::Result;
use crate::lora::Gradients;

/// Frozen weights of a block.
pub struct Block {
    pub index: usize,
    pub attention: Attention,
    pub mlp: Mlp,
}

/// Everything of a forward pass that the backward pass reads.
pub struct Saved {
    x: Tensor,
    attention: attention::Saved,
    x1: Tensor,
    mlp: mlp::Saved,
}

/// A part of [`Saved`], from which the block is run again.
pub struct Kept {
    x: Offloaded,
    attention: attention::Kept,
    mlp: mlp::Kept,
}

impl Kept {
    /// Lets the device's copy of what was sent to host memory go.
    pub fn release(&mut self) -> Result<()> {
        Ok(self.x.release()?)
    }

    /// Begins to bring back what is in host memory.
    pub fn prefetch(&mut self) -> Result<()> {
        Ok(self.x.prefetch()?)
    }
}

impl From<Tensor> for Kept {
    /// The input alone.
    fn from(x: Tensor) -> Self {
        Self {
            x: x.into(),
            attention: attention::Kept::default(),
            mlp: mlp::Kept::default(),
        }
    }
}

impl Saved {
    /// Gives up what is not to be kept. What adapters save is kept whatever else is: a block that
    /// is run again neither draws dropout masks nor multiplies with A again.
    pub fn reduced(self, backend: &dyn Backend, keep: SavedActivations) -> Result<Kept> {
        // With DoRA what an adapter saves is as large as the output beside it: both are kept or
        // neither.
        let small = self
            .attention
            .lora()
            .chain(self.mlp.lora())
            .all(AdapterSaved::is_small);
        let keep = if small || keep == SavedActivations::All {
            keep
        } else {
            keep.min(SavedActivations::Attention)
        };
        let keeps_lora = small || keep == SavedActivations::All;
        Ok(Kept {
            x: if keep == SavedActivations::OffloadedInput {
                backend.offload(&self.x)?
            } else {
                self.x.into()
            },
            attention: self.attention.reduced(self.x1, keep, keeps_lora),
            mlp: self.mlp.reduced(keep, keeps_lora),
        })
    }
}

impl Block {
    /// The block up to its last product, from what is kept of it: its input [M, D], or more.
    pub fn run(&self, pass: &Pass<'_>, kept: Kept) -> Result<Saved> {
        pass.stop.check()?;
        let x = kept.x.take()?;
        let next = self.mlp.inputs.first();
        let (x1, attention) = self.attention.forward(pass, &x, kept.attention, next)?;
        let mlp = self.mlp.forward(pass, &x1, kept.mlp)?;
        Ok(Saved {
            x,
            attention,
            x1,
            mlp,
        })
    }

    /// The rest of the forward pass: `y` [M, D].
    pub fn finish(&self, pass: &Pass<'_>, saved: &Saved) -> Result<Tensor> {
        self.mlp.finish(pass, &saved.x1, &saved.mlp)
    }

    /// `dy` [M, D] to `dx`; gradients of the block's adapters are added to `grads`.
    ///
    /// Takes both, so that each of their parts is given up as soon as it has been used.
    pub fn backward(
        &self,
        pass: &Pass<'_>,
        saved: Saved,
        dy: Tensor,
        grads: &mut Gradients,
    ) -> Result<Tensor> {
        let Saved {
            x,
            attention,
            x1,
            mlp,
        } = saved;
        let dx1 = self.mlp.backward(pass, &x1, mlp, dy, grads)?;
        drop(x1);
        self.attention.backward(pass, &x, attention, dx1, grads)
    }

    /// Forward for generation: `x` holds only new tokens, `cache` those before, and grows.
    pub fn extend(
        &self,
        pass: &Pass<'_>,
        x: &Tensor,
        cache: &mut Option<LayerCache>,
    ) -> Result<Tensor> {
        pass.stop.check()?;
        let x1 = self
            .attention
            .extend(pass, x, cache, self.mlp.inputs.first())?;
        let mlp = self.mlp.forward(pass, &x1, mlp::Kept::default())?;
        self.mlp.finish(pass, &x1, &mlp)
    }

    /// Every linear layer.
    pub fn linears(&self) -> impl Iterator<Item = &LinearAt> {
        self.attention.linears().chain(self.mlp.linears())
    }

    /// The layer `module`.
    pub fn linear(&self, module: TargetModule) -> Option<&Linear> {
        let mut linears = self.linears();
        linears.find(|at| at.module == module).map(|at| &at.linear)
    }
}
