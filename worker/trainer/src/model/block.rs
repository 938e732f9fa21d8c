//! One decoder block: forward with everything kept, and the backward pass by hand.
//!
//! ```text
//! n1 = norm(x); q, k, v = n1 Wq, n1 Wk, n1 Wv; rope(q, k); o = attention(q, k, v); x1 = x + o Wo
//! n2 = norm(x1); g, e = n2 Wg, n2 We; h = silu(g) * e; y = x1 + h Wd
//! ```
//!
//! The backward pass never needs y, so a block that is run again stops before the down projection.

use candle_core::Tensor;
use qlora_config::TargetModule as M;
use qlora_kernels::ops::{attention, rms_norm, swiglu};
use qlora_kernels::{Activations, AttentionShape, Products, RopeTable, Span};

use super::projection::{self, AdapterPass, Inner, Projection, Pull};
use crate::Result;
use crate::lora::{Adapters, Gradients, MaskPosition};

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
    pub products: Products,
    /// Position of each row within its own sequence.
    pub positions: &'a [u32],
    pub spans: &'a [Span],
    pub adapters: &'a Adapters,
    /// Where the dropout masks are drawn from; none outside training.
    pub masks: Option<MaskPosition>,
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
    g: Tensor,
    e: Tensor,
    /// What the adapters of q, k, v, o, gate and up leave.
    u: [Option<Inner>; 6],
}

impl Block {
    fn adapter<'a>(&self, pass: &Pass<'a>, module: M) -> Option<AdapterPass<'a>> {
        pass.adapters.pass(self.index, module, pass.masks)
    }

    fn project(&self, pass: &Pass<'_>, module: M, x: &Activations) -> Result<(Tensor, Option<Inner>)> {
        self.projections[module as usize].forward(pass.products, x, self.adapter(pass, module), None)
    }

    /// [`Self::project`] onto a residual stream.
    fn project_onto(
        &self,
        pass: &Pass<'_>,
        module: M,
        x: &Activations,
        base: &Tensor,
    ) -> Result<(Tensor, Option<Inner>)> {
        self.projections[module as usize].forward(pass.products, x, self.adapter(pass, module), Some(base))
    }

    /// The block up to and without the down projection; `x` [M, D].
    pub fn keep(&self, pass: &Pass<'_>, x: &Tensor) -> Result<Saved> {
        let (n1, rho1) = rms_norm::forward(x, &self.norm1, pass.epsilon)?;
        let n1 = n1.into();
        let (q, u_q) = self.project(pass, M::QProj, &n1)?;
        let (k, u_k) = self.project(pass, M::KProj, &n1)?;
        let (v, u_v) = self.project(pass, M::VProj, &n1)?;
        let (q, k) = (pass.rope.forward(&q, pass.positions)?, pass.rope.forward(&k, pass.positions)?);
        let (o, lse) = attention::forward((&q, &k, &v), &pass.shape, pass.spans, pass.products)?;
        let o = o.into();
        let (x1, u_o) = self.project_onto(pass, M::OProj, &o, x)?;
        let (n2, rho2) = rms_norm::forward(&x1, &self.norm2, pass.epsilon)?;
        let n2 = n2.into();
        let (g, u_g) = self.project(pass, M::GateProj, &n2)?;
        let (e, u_e) = self.project(pass, M::UpProj, &n2)?;
        Ok(Saved { x: x.clone(), rho1, q, k, v, o, lse, x1, rho2, g, e, u: [u_q, u_k, u_v, u_o, u_g, u_e] })
    }

    /// The rest of the forward pass: `y` [M, D].
    pub fn finish(&self, pass: &Pass<'_>, saved: &Saved) -> Result<Tensor> {
        let h = swiglu::forward(&saved.g, &saved.e)?.into();
        Ok(self.project_onto(pass, M::DownProj, &h, &saved.x1)?.0)
    }

    /// `dy` [M, D] to `dx`; gradients of the block's adapters are added to `grads`.
    pub fn backward(&self, pass: &Pass<'_>, saved: &Saved, dy: &Tensor, grads: &mut Gradients) -> Result<Tensor> {
        let dx1 = self.backward_ffn(pass, saved, dy, grads)?;
        self.backward_attention(pass, saved, dx1, grads)
    }

    fn backward_ffn(&self, pass: &Pass<'_>, saved: &Saved, dy: &Tensor, grads: &mut Gradients) -> Result<Tensor> {
        let h = swiglu::forward(&saved.g, &saved.e)?.into();
        // What the adapter leaves is rebuilt: it would be the only thing kept of the down projection.
        let u_d = match self.adapter(pass, M::DownProj) {
            Some(adapter) => Some(self.projections[M::DownProj as usize].inner(pass.products, &h, &adapter)?),
            None => None,
        };
        let dh = self.pull(pass, &[(M::DownProj, dy.into(), u_d.as_ref())], &h, grads)?;
        let (dg, de) = swiglu::backward(&dh, &saved.g, &saved.e)?;
        let (n2, _) = rms_norm::forward(&saved.x1, &self.norm2, pass.epsilon)?;
        let [.., u_g, u_e] = saved.u.each_ref().map(Option::as_ref);
        let dn2 = self.pull(pass, &[(M::GateProj, dg.into(), u_g), (M::UpProj, de.into(), u_e)], &n2, grads)?;
        Ok(rms_norm::backward(&dn2, &saved.x1, &self.norm2, &saved.rho2, Some(dy))?)
    }

    fn backward_attention(&self, pass: &Pass<'_>, saved: &Saved, dx1: Tensor, grads: &mut Gradients) -> Result<Tensor> {
        let [u_q, u_k, u_v, u_o, ..] = saved.u.each_ref().map(Option::as_ref);
        let d_o = self.pull(pass, &[(M::OProj, (&dx1).into(), u_o)], &saved.o, grads)?;
        let inputs = attention::Saved { q: &saved.q, k: &saved.k, v: &saved.v, o: &saved.o, lse: &saved.lse };
        let (dq, dk, dv) = attention::backward(&d_o, &inputs, &pass.shape, pass.spans, pass.products)?;
        let (dq, dk) = (pass.rope.backward(&dq, pass.positions)?, pass.rope.backward(&dk, pass.positions)?);
        let (n1, _) = rms_norm::forward(&saved.x, &self.norm1, pass.epsilon)?;
        let dn1 = self.pull(
            pass,
            &[(M::QProj, dq.into(), u_q), (M::KProj, dk.into(), u_k), (M::VProj, dv.into(), u_v)],
            &n1,
            grads,
        )?;
        Ok(rms_norm::backward(&dn1, &saved.x, &self.norm1, &saved.rho1, Some(&dx1))?)
    }

    /// Gradient through projections that share their input `x`, each with the gradient that reaches it and what its
    /// adapter left; gradients of the adapters go to `grads`.
    fn pull(
        &self,
        pass: &Pass<'_>,
        parts: &[(M, Activations, Option<&Inner>)],
        x: &Tensor,
        grads: &mut Gradients,
    ) -> Result<Tensor> {
        let pulls: Vec<_> = parts
            .iter()
            .map(|(module, dy, inner)| {
                let projection = &self.projections[*module as usize];
                Pull { projection, dy, adapter: self.adapter(pass, *module), inner: *inner }
            })
            .collect();
        let (dx, found) = projection::backward(pass.products, &pulls, x)?;
        for (&(module, ..), grad) in parts.iter().zip(found) {
            if let (Some(grad), Some(index)) = (grad, pass.adapters.index(self.index, module)) {
                grads.add(index, grad)?;
            }
        }
        Ok(dx)
    }

    /// Forward for generation: `x` holds only new tokens, `cache` those before, and grows.
    pub fn extend(&self, pass: &Pass<'_>, x: &Tensor, cache: &mut Option<LayerCache>) -> Result<Tensor> {
        let n1 = rms_norm::forward(x, &self.norm1, pass.epsilon)?.0.into();
        let (q, k) = (self.project(pass, M::QProj, &n1)?.0, self.project(pass, M::KProj, &n1)?.0);
        let (q, k) = (pass.rope.forward(&q, pass.positions)?, pass.rope.forward(&k, pass.positions)?);
        let v = self.project(pass, M::VProj, &n1)?.0;
        let grown = match cache.take() {
            None => LayerCache { k, v },
            Some(old) => LayerCache { k: Tensor::cat(&[&old.k, &k], 0)?, v: Tensor::cat(&[&old.v, &v], 0)? },
        };
        let (o, _) = attention::forward((&q, &grown.k, &grown.v), &pass.shape, pass.spans, pass.products)?;
        *cache = Some(grown);
        let x1 = self.project_onto(pass, M::OProj, &o.into(), x)?.0;
        let n2 = rms_norm::forward(&x1, &self.norm2, pass.epsilon)?.0.into();
        let (g, e) = (self.project(pass, M::GateProj, &n2)?.0, self.project(pass, M::UpProj, &n2)?.0);
        Ok(self.project_onto(pass, M::DownProj, &swiglu::forward(&g, &e)?.into(), &x1)?.0)
    }
}
