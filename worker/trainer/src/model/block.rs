//! One decoder block: forward with everything kept, and the backward pass by hand.
//!
//! ```text
//! n1 = norm(x); q, k, v = n1 Wq, n1 Wk, n1 Wv; rope(q, k); o = attention(q, k, v); x1 = x + o Wo
//! n2 = norm(x1); g, e = n2 Wg, n2 We; h = silu(g) * e; y = x1 + h Wd
//! ```
//!
//! The backward pass never needs y, so a block that is run again stops before the down projection.
//! Neither does it draw dropout masks or multiply with A again: what the adapters left is kept
//! whatever else is.

use candle_core::Tensor;
use qlora_config::TargetModule as M;
use qlora_kernels::types::offload::Offloaded;
use qlora_kernels::{Activations, AttentionSaved, AttentionShape, Backend, RopeTable, Sequences};
use qlora_planner::SavedActivations;

use super::projection::{self, Inner, Projection, Pull};
use crate::Result;
use crate::lora::{AdapterPass, Adapters, FactorGrad, Gradients, MaskPosition};
use crate::stop::StopSignal;

/// Frozen weights of a block.
pub struct Block {
    pub index: usize,
    pub norm1: Tensor,
    pub norm2: Tensor,
    /// In the order of [`M::ALL`].
    pub projections: [Projection; 7],
}

/// What every block of a pass shares.
pub struct Pass<'a> {
    pub shape: AttentionShape,
    pub epsilon: f64,
    pub rope: &'a RopeTable,
    pub backend: &'a dyn Backend,
    pub sequences: Sequences,
    pub adapters: &'a Adapters,
    /// Where the dropout masks are drawn from; none outside training.
    pub masks: Option<MaskPosition>,
    /// Asked before each part of a block.
    pub stop: &'a StopSignal,
}

impl Pass<'_> {
    fn rotated(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.backend.rope_forward(self.rope, x, &self.sequences)?)
    }
}

/// Keys and values of the tokens before, rotated; [T, K*E] each.
#[derive(Debug, Clone)]
pub struct LayerCache {
    pub k: Tensor,
    pub v: Tensor,
}

/// Everything of a forward pass that the backward pass reads.
pub struct Saved {
    x: Tensor,
    rho1: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Activations,
    lse: Tensor,
    x1: Tensor,
    rho2: Tensor,
    g: Activations,
    e: Activations,
    /// What the adapters of q, k, v, o, gate and up leave.
    u: [Option<Inner>; 6],
}

/// What of it the feed-forward layer needs.
struct Gated {
    x1: Tensor,
    rho2: Tensor,
    g: Activations,
    e: Activations,
    u: [Option<Inner>; 2],
}

/// And what attention needs.
struct Attended {
    x: Tensor,
    rho1: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Activations,
    lse: Tensor,
    u: [Option<Inner>; 4],
}

/// A part of [`Saved`], from which the block is run again.
pub struct Kept {
    x: Offloaded,
    rho1: Option<Tensor>,
    heads: Option<[Tensor; 3]>,
    attention: Option<(Activations, Tensor)>,
    x1: Option<Tensor>,
    rho2: Option<Tensor>,
    gates: Option<(Activations, Activations)>,
    u: [Option<Inner>; 6],
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
        let (x, u) = (x.into(), Default::default());
        Self {
            x,
            rho1: None,
            heads: None,
            attention: None,
            x1: None,
            rho2: None,
            gates: None,
            u,
        }
    }
}

impl Saved {
    /// Gives up what is not to be kept.
    pub fn reduced(self, backend: &dyn Backend, keep: SavedActivations) -> Result<Kept> {
        let Self {
            x,
            rho1,
            q,
            k,
            v,
            o,
            lse,
            x1,
            rho2,
            g,
            e,
            u,
        } = self;
        // With DoRA what an adapter leaves is as large as the output beside it: both are kept or
        // neither.
        let small = u.iter().flatten().all(Inner::is_small);
        let keep = if small || keep == SavedActivations::All {
            keep
        } else {
            keep.min(SavedActivations::Attention)
        };
        let from = |least: SavedActivations| keep >= least;
        Ok(Kept {
            x: if keep == SavedActivations::OffloadedInput {
                backend.offload(&x)?
            } else {
                x.into()
            },
            rho1: Some(rho1),
            heads: from(SavedActivations::Qkv).then_some([q, k, v]),
            attention: from(SavedActivations::Attention).then_some((o, lse)),
            x1: from(SavedActivations::Residual).then_some(x1),
            rho2: Some(rho2),
            gates: from(SavedActivations::All).then_some((g, e)),
            u: if small || from(SavedActivations::All) {
                u
            } else {
                Default::default()
            },
        })
    }
}

type Heads = (Tensor, [Tensor; 3], [Option<Inner>; 3]);
type Gates = (Tensor, (Activations, Activations), [Option<Inner>; 2]);

/// A projection, the gradient that reaches it, and what its adapter left.
type Part<'a> = (M, &'a Activations, Option<&'a Inner>);

/// The input that projections share, made only where an adapter needs it.
fn needed(
    parts: &[Part<'_>],
    make: impl FnOnce() -> Result<Activations>,
) -> Result<Option<Activations>> {
    parts
        .iter()
        .any(|part| part.2.is_some())
        .then(make)
        .transpose()
}

impl Block {
    fn adapter<'a>(&self, pass: &Pass<'a>, module: M) -> Option<AdapterPass<'a>> {
        pass.adapters.pass(self.index, module, pass.masks)
    }

    /// The weights of the projection after `module` are made ready while it is at work.
    fn prefetch_next(&self, pass: &Pass<'_>, module: M) -> Result<()> {
        self.projections
            .get(module as usize + 1)
            .map_or(Ok(()), |next| next.prefetch(pass.backend))
    }

    /// What adapters that share the input `x` leave.
    fn inners<const N: usize>(
        &self,
        pass: &Pass<'_>,
        modules: [M; N],
        x: &Activations,
        known: [Option<Inner>; N],
    ) -> Result<[Option<Inner>; N]> {
        projection::inners(
            pass.backend,
            x,
            modules.map(|module| self.adapter(pass, module)),
            known,
        )
    }

    fn project(
        &self,
        pass: &Pass<'_>,
        module: M,
        x: &Activations,
        known: Option<Inner>,
    ) -> Result<(Tensor, Option<Inner>)> {
        self.prefetch_next(pass, module)?;
        self.projections[module as usize].forward(
            pass.backend,
            x,
            self.adapter(pass, module),
            known,
            None,
        )
    }

    /// [`Self::project`] for a result that goes on to other products.
    fn project_on(
        &self,
        pass: &Pass<'_>,
        module: M,
        x: &Activations,
        known: Option<Inner>,
    ) -> Result<(Activations, Option<Inner>)> {
        self.prefetch_next(pass, module)?;
        self.projections[module as usize].forward_on(
            pass.backend,
            x,
            self.adapter(pass, module),
            known,
        )
    }

    /// [`Self::project`] onto a residual stream.
    fn project_onto(
        &self,
        pass: &Pass<'_>,
        module: M,
        x: &Activations,
        known: Option<Inner>,
        base: &Tensor,
    ) -> Result<(Tensor, Option<Inner>)> {
        self.prefetch_next(pass, module)?;
        self.projections[module as usize].forward(
            pass.backend,
            x,
            self.adapter(pass, module),
            known,
            Some(base),
        )
    }

    /// The block up to and without the down projection, from what is kept of it: its input [M, D],
    /// or more.
    pub fn run(&self, pass: &Pass<'_>, kept: Kept) -> Result<Saved> {
        let Kept {
            x,
            rho1,
            heads,
            attention,
            x1,
            rho2,
            gates,
            u: [u_q, u_k, u_v, u_o, u_g, u_e],
        } = kept;
        pass.stop.check()?;
        let x = x.take()?;
        let (rho1, [q, k, v], [u_q, u_k, u_v]) = match (rho1, heads) {
            (Some(rho1), Some(heads)) => (rho1, heads, [u_q, u_k, u_v]),
            _ => self.run_heads(pass, &x, [u_q, u_k, u_v])?,
        };
        let (o, lse) = match attention {
            Some(kept) => kept,
            None => {
                pass.stop.check()?;
                let (o, lse) =
                    pass.backend
                        .attention_forward((&q, &k, &v), &pass.shape, &pass.sequences)?;
                (o.into(), lse)
            }
        };
        let (x1, u_o) = match x1 {
            Some(x1) => (x1, u_o),
            None => self.project_onto(pass, M::OProj, &o, u_o, &x)?,
        };
        let (rho2, (g, e), [u_g, u_e]) = match (rho2, gates) {
            (Some(rho2), Some(gates)) => (rho2, gates, [u_g, u_e]),
            _ => self.run_gates(pass, &x1, [u_g, u_e])?,
        };
        Ok(Saved {
            x,
            rho1,
            q,
            k,
            v,
            o,
            lse,
            x1,
            rho2,
            g,
            e,
            u: [u_q, u_k, u_v, u_o, u_g, u_e],
        })
    }

    /// Sums of the norm, and rotated queries and keys with their values.
    fn run_heads(&self, pass: &Pass<'_>, x: &Tensor, known: [Option<Inner>; 3]) -> Result<Heads> {
        let (n1, rho1) = pass
            .backend
            .rms_norm_forward_on(x, &self.norm1, pass.epsilon)?;
        let [u_q, u_k, u_v] = self.inners(pass, [M::QProj, M::KProj, M::VProj], &n1, known)?;
        let (q, u_q) = self.project(pass, M::QProj, &n1, u_q)?;
        let (k, u_k) = self.project(pass, M::KProj, &n1, u_k)?;
        let (v, u_v) = self.project(pass, M::VProj, &n1, u_v)?;
        let (q, k) = (pass.rotated(&q)?, pass.rotated(&k)?);
        Ok((rho1, [q, k, v], [u_q, u_k, u_v]))
    }

    /// Sums of the norm, gate and up.
    fn run_gates(&self, pass: &Pass<'_>, x1: &Tensor, known: [Option<Inner>; 2]) -> Result<Gates> {
        pass.stop.check()?;
        let (n2, rho2) = pass
            .backend
            .rms_norm_forward_on(x1, &self.norm2, pass.epsilon)?;
        let [u_g, u_e] = self.inners(pass, [M::GateProj, M::UpProj], &n2, known)?;
        let (g, u_g) = self.project_on(pass, M::GateProj, &n2, u_g)?;
        let (e, u_e) = self.project_on(pass, M::UpProj, &n2, u_e)?;
        Ok((rho2, (g, e), [u_g, u_e]))
    }

    /// The rest of the forward pass: `y` [M, D].
    pub fn finish(&self, pass: &Pass<'_>, saved: &Saved) -> Result<Tensor> {
        pass.stop.check()?;
        let h = pass.backend.swiglu_forward(&saved.g, &saved.e)?;
        Ok(self.project_onto(pass, M::DownProj, &h, None, &saved.x1)?.0)
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
            rho1,
            q,
            k,
            v,
            o,
            lse,
            x1,
            rho2,
            g,
            e,
            u,
        } = saved;
        let [u_q, u_k, u_v, u_o, u_g, u_e] = u;
        let gated = Gated {
            x1,
            rho2,
            g,
            e,
            u: [u_g, u_e],
        };
        let dx1 = self.backward_ffn(pass, gated, dy, grads)?;
        let attended = Attended {
            x,
            rho1,
            q,
            k,
            v,
            o,
            lse,
            u: [u_q, u_k, u_v, u_o],
        };
        self.backward_attention(pass, attended, dx1, grads)
    }

    fn backward_ffn(
        &self,
        pass: &Pass<'_>,
        saved: Gated,
        dy: Tensor,
        grads: &mut Gradients,
    ) -> Result<Tensor> {
        pass.stop.check()?;
        let Gated { x1, rho2, g, e, u } = saved;
        let dh = self.backward_down(pass, (&g, &e), &dy, grads)?;
        pass.stop.check()?;
        let (dg, de) = pass.backend.swiglu_backward_over(dh, &g, &e)?;
        drop((g, e));
        let [u_g, u_e] = u.each_ref().map(Option::as_ref);
        let parts = [(M::GateProj, &dg, u_g), (M::UpProj, &de, u_e)];
        let n2 = needed(&parts, || self.normalised(pass, &x1, &self.norm2))?;
        let dn2 = self.pull(pass, &parts, n2.as_ref(), grads)?;
        Ok(pass
            .backend
            .rms_norm_backward(&dn2, &x1, &self.norm2, &rho2, Some(&dy))?)
    }

    /// The gradient of h. What the adapter left is made again: it would be the only thing kept of
    /// the down projection.
    fn backward_down(
        &self,
        pass: &Pass<'_>,
        (g, e): (&Activations, &Activations),
        dy: &Tensor,
        grads: &mut Gradients,
    ) -> Result<Activations> {
        let projection = &self.projections[M::DownProj as usize];
        let adapter = self.adapter(pass, M::DownProj);
        let h = adapter
            .map(|_| pass.backend.swiglu_forward(g, e))
            .transpose()?;
        let inner = match (&adapter, &h) {
            (Some(adapter), Some(h)) => Some(projection.inner(pass.backend, h, adapter)?),
            _ => None,
        };
        let pull = Pull {
            projection,
            dy: &dy.into(),
            adapter,
            inner: inner.as_ref(),
        };
        self.projections[M::GateProj as usize].prefetch(pass.backend)?;
        let (dh, found) = projection::backward_on(pass.backend, &[pull], h.as_ref())?;
        self.collect(pass, [M::DownProj], found, grads)?;
        Ok(dh)
    }

    /// `x` after a norm, once more.
    fn normalised(&self, pass: &Pass<'_>, x: &Tensor, norm: &Tensor) -> Result<Activations> {
        Ok(pass.backend.rms_norm_forward_on(x, norm, pass.epsilon)?.0)
    }

    fn backward_attention(
        &self,
        pass: &Pass<'_>,
        saved: Attended,
        dx1: Tensor,
        grads: &mut Gradients,
    ) -> Result<Tensor> {
        pass.stop.check()?;
        let Attended {
            x,
            rho1,
            q,
            k,
            v,
            o,
            lse,
            u,
        } = saved;
        let [u_q, u_k, u_v, u_o] = u.each_ref().map(Option::as_ref);
        let d_o = self.pull(pass, &[(M::OProj, &(&dx1).into(), u_o)], Some(&o), grads)?;
        pass.stop.check()?;
        let inputs = AttentionSaved {
            q: &q,
            k: &k,
            v: &v,
            o: o.tensor()?,
            lse: &lse,
        };
        let (dq, dk, dv) =
            pass.backend
                .attention_backward(&d_o, &inputs, &pass.shape, &pass.sequences)?;
        let rotated_back = |dx: &Tensor| pass.backend.rope_backward(pass.rope, dx, &pass.sequences);
        let (dq, dk) = (rotated_back(&dq)?, rotated_back(&dk)?);
        let (dq, dk, dv) = (dq.into(), dk.into(), dv.into());
        let parts = [
            (M::QProj, &dq, u_q),
            (M::KProj, &dk, u_k),
            (M::VProj, &dv, u_v),
        ];
        let n1 = needed(&parts, || self.normalised(pass, &x, &self.norm1))?;
        let dn1 = self.pull(pass, &parts, n1.as_ref(), grads)?;
        Ok(pass
            .backend
            .rms_norm_backward(&dn1, &x, &self.norm1, &rho1, Some(&dx1))?)
    }

    /// Gradient through projections that share their input `x`, each with the gradient that reaches
    /// it and what its adapter left; gradients of the adapters go to `grads`.
    fn pull(
        &self,
        pass: &Pass<'_>,
        parts: &[Part<'_>],
        x: Option<&Activations>,
        grads: &mut Gradients,
    ) -> Result<Tensor> {
        let pulls: Vec<_> = parts
            .iter()
            .map(|&(module, dy, inner)| {
                let projection = &self.projections[module as usize];
                Pull {
                    projection,
                    dy,
                    adapter: self.adapter(pass, module),
                    inner,
                }
            })
            .collect();
        let (dx, found) = projection::backward(pass.backend, &pulls, x)?;
        self.collect(pass, parts.iter().map(|part| part.0), found, grads)?;
        Ok(dx)
    }

    /// Adds the gradients that were found to those of the run.
    fn collect(
        &self,
        pass: &Pass<'_>,
        modules: impl IntoIterator<Item = M>,
        found: Vec<Option<FactorGrad>>,
        grads: &mut Gradients,
    ) -> Result<()> {
        for (module, grad) in modules.into_iter().zip(found) {
            if let (Some(grad), Some(index)) = (grad, pass.adapters.index(self.index, module)) {
                grads.set(index, grad);
            }
        }
        Ok(())
    }

    /// Forward for generation: `x` holds only new tokens, `cache` those before, and grows.
    pub fn extend(
        &self,
        pass: &Pass<'_>,
        x: &Tensor,
        cache: &mut Option<LayerCache>,
    ) -> Result<Tensor> {
        pass.stop.check()?;
        let n1 = self.normalised(pass, x, &self.norm1)?;
        let (q, k) = (
            self.project(pass, M::QProj, &n1, None)?.0,
            self.project(pass, M::KProj, &n1, None)?.0,
        );
        let (q, k) = (pass.rotated(&q)?, pass.rotated(&k)?);
        let v = self.project(pass, M::VProj, &n1, None)?.0;
        let grown = match cache.take() {
            None => LayerCache { k, v },
            Some(old) => LayerCache {
                k: pass.backend.append_rows(&old.k, &k)?,
                v: pass.backend.append_rows(&old.v, &v)?,
            },
        };
        let (o, _) = pass.backend.attention_forward(
            (&q, &grown.k, &grown.v),
            &pass.shape,
            &pass.sequences,
        )?;
        *cache = Some(grown);
        let x1 = self.project_onto(pass, M::OProj, &o.into(), None, x)?.0;
        let n2 = self.normalised(pass, &x1, &self.norm2)?;
        let (g, e) = (
            self.project_on(pass, M::GateProj, &n2, None)?.0,
            self.project_on(pass, M::UpProj, &n2, None)?.0,
        );
        Ok(self
            .project_onto(
                pass,
                M::DownProj,
                &pass.backend.swiglu_forward(&g, &e)?,
                None,
                &x1,
            )?
            .0)
    }
}
