//! The feed-forward sub-layer: y = x + k h Wd with h = gate(n Wg) * (n Wu) and n = norm(x), or
//! y = x + norm_after(h Wd).
//!
//! The backward pass never needs y, so a sub-layer that is run again stops before the down
//! projection, unless a norm follows that.

use candle_core::Tensor;
use qlora_kernels::{Activations, GateFunction};
use qlora_planner::SavedActivations;

use super::linear::{self, LinearGrad, LoraSaved};
use super::norm::Norm;
use super::pass::{LinearAt, Pass};
use crate::Result;
use crate::lora::Gradients;

/// Frozen weights of the sub-layer.
pub struct Mlp {
    pub norm: Norm,
    pub inputs: Inputs,
    pub gate: GateFunction,
    pub down: LinearAt,
    pub norm_after: Option<Norm>,
}

/// What gives gate and up.
pub enum Inputs {
    Separate([LinearAt; 2]),
    Fused(LinearAt),
}

impl Inputs {
    pub fn layers(&self) -> &[LinearAt] {
        match self {
            Self::Separate(layers) => layers,
            Self::Fused(layer) => std::slice::from_ref(layer),
        }
    }
}

/// What the backward pass reads besides the input.
pub struct Saved {
    rstd: Tensor,
    g: Activations,
    up: Activations,
    /// Where a norm follows: what goes into it, and its rstd.
    given: Option<(Tensor, Tensor)>,
    u: Vec<Option<LoraSaved>>,
}

/// A part of [`Saved`], from which the sub-layer is run again; the default is none of it.
#[derive(Default)]
pub struct Kept {
    rstd: Option<Tensor>,
    gates: Option<(Activations, Activations)>,
    given: Option<(Tensor, Tensor)>,
    u: Vec<Option<LoraSaved>>,
}

impl Saved {
    pub fn lora(&self) -> impl Iterator<Item = &LoraSaved> {
        self.u.iter().flatten()
    }

    /// Gives up what `keep` does not keep.
    pub fn reduced(self, keep: SavedActivations, keeps_lora: bool) -> Kept {
        let all = keep >= SavedActivations::All;
        Kept {
            rstd: Some(self.rstd),
            gates: all.then_some((self.g, self.up)),
            given: self.given.filter(|_| all),
            u: if keeps_lora { self.u } else { Vec::new() },
        }
    }
}

impl Mlp {
    /// What the backward pass reads of `x` [M, D], from what is kept of an earlier pass over the
    /// same rows.
    pub fn forward(&self, pass: &Pass<'_>, x: &Tensor, kept: Kept) -> Result<Saved> {
        let mut u = kept.u;
        u.resize_with(self.inputs.layers().len(), || None);
        let (rstd, (g, up)) = match (kept.rstd, kept.gates) {
            (Some(rstd), Some(gates)) => (rstd, gates),
            _ => self.run_gates(pass, x, &mut u)?,
        };
        let given = match (&self.norm_after, kept.given) {
            (None, _) => None,
            (Some(_), Some(given)) => Some(given),
            (Some(norm), None) => {
                let given = self.run_down(pass, &g, &up, None)?;
                let rstd = norm.forward(pass.backend, &given)?.1;
                Some((given, rstd))
            }
        };
        Ok(Saved {
            rstd,
            g,
            up,
            given,
            u,
        })
    }

    /// The rstd of the norm, gate and up.
    #[allow(clippy::type_complexity)]
    fn run_gates(
        &self,
        pass: &Pass<'_>,
        x: &Tensor,
        u: &mut [Option<LoraSaved>],
    ) -> Result<(Tensor, (Activations, Activations))> {
        pass.stop.check()?;
        let (n, rstd) = self.norm.forward_on(pass.backend, x)?;
        pass.lora_forward(self.inputs.layers(), &n, u)?;
        let gates = match &self.inputs {
            Inputs::Separate([gate, up]) => {
                up.linear.prefetch(pass.backend)?;
                let (g, saved) = pass.forward_on(gate, &n, u[0].take())?;
                u[0] = saved;
                self.down.linear.prefetch(pass.backend)?;
                let (up, saved) = pass.forward_on(up, &n, u[1].take())?;
                u[1] = saved;
                (g, up)
            }
            Inputs::Fused(layer) => {
                self.down.linear.prefetch(pass.backend)?;
                let (both, saved) = pass.forward(layer, &n, u[0].take(), None)?;
                u[0] = saved;
                let width = both.dim(1)? / 2;
                let mut columns = pass.backend.split_columns(&both, &[width, width])?;
                let missing = || candle_core::Error::Msg("two parts of a matrix".into());
                let up = columns.pop().ok_or_else(missing)?;
                (columns.pop().ok_or_else(missing)?.into(), up.into())
            }
        };
        Ok((rstd, gates))
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
        match (&self.norm_after, &saved.given) {
            (Some(norm), Some((given, _))) => {
                let (normed, _) = norm.forward(pass.backend, given)?;
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
            given,
            u,
        } = saved;
        let dh = match (&self.norm_after, given) {
            (Some(norm), Some((given, rstd))) => {
                let into = norm.backward(pass.backend, &dy, &given, &rstd, None)?;
                drop(given);
                self.down_backward(pass, (&g, &up), &into, grads)?
            }
            _ => self.down_backward(pass, (&g, &up), &dy, grads)?,
        };
        pass.stop.check()?;
        let (dg, dup) = pass.backend.glu_backward_over(self.gate, dh, &g, &up)?;
        drop((g, up));
        let needs_input = u.iter().any(Option::is_some);
        let n = needs_input
            .then(|| self.norm.forward_on(pass.backend, x))
            .transpose()?;
        let dys = match &self.inputs {
            Inputs::Separate(_) => vec![dg, dup],
            Inputs::Fused(_) => {
                let joined = pass.backend.join_columns(&[dg.tensor()?, dup.tensor()?])?;
                drop((dg, dup));
                vec![joined.into()]
            }
        };
        let parts: Vec<_> = self
            .inputs
            .layers()
            .iter()
            .zip(&dys)
            .zip(&u)
            .map(|((layer, dy), u)| (layer, dy, u.as_ref()))
            .collect();
        let dn = pass.backward(&parts, n.as_ref().map(|(n, _)| n), grads)?;
        self.norm.backward(pass.backend, &dn, x, &rstd, Some(&dy))
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
            (Some(adapter), Some(h)) => Some(linear.lora_forward(pass.backend, h, adapter)?),
            _ => None,
        };
        let grad = LinearGrad {
            linear,
            dy: &dy.into(),
            adapter,
            saved: saved.as_ref(),
        };
        self.first().linear.prefetch(pass.backend)?;
        let (dh, found) = linear::backward_on(pass.backend, &[grad], h.as_ref())?;
        pass.collect([&self.down], found, grads);
        Ok(dh)
    }

    /// The layer that comes first.
    pub fn first(&self) -> &LinearAt {
        match &self.inputs {
            Inputs::Separate([gate, _]) => gate,
            Inputs::Fused(layer) => layer,
        }
    }

    /// Every linear layer.
    pub fn linears(&self) -> impl Iterator<Item = &LinearAt> {
        self.inputs.layers().iter().chain([&self.down])
    }
}
