//! The feed-forward sub-layer: y = x + k h Wd with h = gate(n Wg) * (n Wu) and n = norm(x), or
//! y = x + norm_after(h Wd).
//!
//! The backward pass never needs y, so a sub-layer that is run again stops before the down
//! projection, unless a norm follows that.

use candle_core::Tensor;
use qlora_kernels::{Activations, GateFunction};
use qlora_planner::SavedActivations;

use super::inputs::{Inputs, SavedByLayer};
use super::linear::{self, AdapterSaved, LinearGrad};
use super::norm::Norm;
use super::pass::{LinearAt, Pass};
use crate::Result;
use crate::lora::Gradients;

/// Frozen weights of the sub-layer.
pub struct Mlp {
    /// Gate and up.
    pub inputs: Inputs<2>,
    pub gate: GateFunction,
    pub down: LinearAt,
    pub norm_after: Option<Norm>,
}

/// What the backward pass reads besides the input.
pub struct Saved {
    rstd: Tensor,
    g: Activations,
    up: Activations,
    /// Where a norm follows: what goes into it.
    output: Option<Tensor>,
    u: SavedByLayer,
}

/// A part of [`Saved`], from which the sub-layer is run again; the default is none of it.
#[derive(Default)]
pub struct Kept {
    rstd: Option<Tensor>,
    gates: Option<(Activations, Activations)>,
    output: Option<Tensor>,
    u: SavedByLayer,
}

impl Saved {
    pub fn lora(&self) -> impl Iterator<Item = &AdapterSaved> {
        self.u.iter().flatten()
    }

    /// Gives up what `keep` does not keep.
    pub fn reduced(self, keep: SavedActivations, keeps_lora: bool) -> Kept {
        let all = keep >= SavedActivations::All;
        Kept {
            rstd: Some(self.rstd),
            gates: all.then_some((self.g, self.up)),
            output: self.output.filter(|_| all),
            u: if keeps_lora { self.u } else { Vec::new() },
        }
    }
}

impl Mlp {
    /// What the backward pass reads of `x` [M, D], from what is kept of an earlier pass over the
    /// same rows.
    pub fn forward(&self, pass: &Pass<'_>, x: &Tensor, kept: Kept) -> Result<Saved> {
        let mut u = kept.u;
        let (rstd, (g, up)) = match (kept.rstd, kept.gates) {
            (Some(rstd), Some(gates)) => (rstd, gates),
            _ => {
                pass.stop.check()?;
                let ([g, up], rstd) = self.inputs.forward_on(pass, x, &mut u, &self.down)?;
                (rstd, (g, up))
            }
        };
        let output = match (&self.norm_after, kept.output) {
            (None, _) => None,
            (Some(_), Some(output)) => Some(output),
            (Some(_), None) => Some(self.run_down(pass, &g, &up, None)?),
        };
        Ok(Saved {
            rstd,
            g,
            up,
            output,
            u,
        })
    }

    fn run_down(
        &self,
        pass: &Pass<'_>,
        g: &Activations,
        up: &Activations,
        base: Option<&Tensor>,
    ) -> Result<Tensor> {
        let h = pass.backend.glu_forward(self.gate, g, up)?;
        Ok(pass.forward(&self.down, &h, None, base)?.0)
    }

    /// The rest of the forward pass: `x` to y [M, D].
    pub fn finish(&self, pass: &Pass<'_>, x: &Tensor, saved: &Saved) -> Result<Tensor> {
        pass.stop.check()?;
        match (&self.norm_after, &saved.output) {
            (Some(norm), Some(output)) => {
                let (normed, _) = norm.forward(pass.backend, output)?;
                Ok(pass.backend.add(x, &normed)?)
            }
            _ => self.run_down(pass, &saved.g, &saved.up, Some(x)),
        }
    }

    /// `dy` [M, D] to dx [M, D]; gradients of the adapters are added to `grads`.
    pub fn backward(
        &self,
        pass: &Pass<'_>,
        x: &Tensor,
        saved: Saved,
        dy: Tensor,
        grads: &mut Gradients,
    ) -> Result<Tensor> {
        pass.stop.check()?;
        let Saved {
            rstd,
            g,
            up,
            output,
            u,
        } = saved;
        let dh = match (&self.norm_after, output) {
            (Some(norm), Some(output)) => {
                let (_, rstd) = norm.forward(pass.backend, &output)?;
                let into = norm.backward(pass.backend, &dy, &output, &rstd, None)?;
                drop(output);
                self.down_backward(pass, (&g, &up), &into, grads)?
            }
            _ => self.down_backward(pass, (&g, &up), &dy, grads)?,
        };
        pass.stop.check()?;
        let (dg, dup) = pass.backend.glu_backward_over(self.gate, dh, &g, &up)?;
        drop((g, up));
        self.inputs
            .backward(pass, (x, &rstd), [dg, dup], &u, &dy, grads)
    }

    /// The gradient of h. What the adapter saves is made again: it would be the only thing kept of
    /// the down projection.
    fn down_backward(
        &self,
        pass: &Pass<'_>,
        (g, up): (&Activations, &Activations),
        dy: &Tensor,
        grads: &mut Gradients,
    ) -> Result<Activations> {
        let adapter = pass.adapter(&self.down);
        let h = adapter
            .map(|_| pass.backend.glu_forward(self.gate, g, up))
            .transpose()?;
        let linear = &self.down.linear;
        let saved = match (&adapter, &h) {
            (Some(adapter), Some(h)) => Some(linear.adapter_forward(pass.backend, h, *adapter)?),
            _ => None,
        };
        let grad = LinearGrad {
            linear,
            dy: &dy.into(),
            adapter,
            saved: saved.as_ref(),
        };
        self.inputs.first().linear.prefetch(pass.backend)?;
        let (dh, found) = linear::backward_on(pass.backend, &[grad], h.as_ref())?;
        pass.collect([&self.down], found, grads);
        Ok(dh)
    }

    /// Every linear layer.
    pub fn linears(&self) -> impl Iterator<Item = &LinearAt> {
        self.inputs.layers().iter().chain([&self.down])
    }
}
