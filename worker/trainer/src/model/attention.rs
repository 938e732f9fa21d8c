//! The sub-layer of attention: x1 = x + k attention(norm(x)) Wo, with what families have besides:
//! biases, norms over heads, no rotation, and a norm of the output before it is added.
//!
//! ```text
//! n = norm(x); q, k, v = n Wq, n Wk, n Wv; q, k = rope(head_norm(q)), rope(head_norm(k))
//! o = attention(q, k, v); x1 = x + o Wo, or x1 = x + norm_after(o Wo)
//! ```

use candle_core::Tensor;
use qlora_kernels::{Activations, AttentionSaved, AttentionShape, RopeTable};
use qlora_planner::SavedActivations;

use super::inputs::{Inputs, SavedByLayer};
use super::linear::AdapterSaved;
use super::norm::Norm;
use super::pass::{LinearAt, Pass};
use crate::Result;
use crate::lora::Gradients;

/// Frozen weights of the sub-layer.
pub struct Attention {
    /// Queries, keys and values.
    pub inputs: Inputs<3>,
    /// Of queries and of keys.
    pub head_norms: Option<[Norm; 2]>,
    pub output: LinearAt,
    pub norm_after: Option<Norm>,
    pub shape: AttentionShape,
    /// The place of the rotary embedding among those of the model; none where nothing is rotated.
    pub rope: Option<usize>,
}

/// Keys and values of the tokens before, as attention reads them; [T, K*E] each.
#[derive(Debug, Clone)]
pub struct LayerCache {
    pub k: Tensor,
    pub v: Tensor,
}

/// What the backward pass reads besides the input.
pub struct Saved {
    rstd: Tensor,
    heads: Heads,
    o: Activations,
    lse: Tensor,
    given: Option<Given>,
    u: SavedByLayer,
    u_output: Option<AdapterSaved>,
}

/// Where a norm follows: what goes into it, and its rstd.
struct Given {
    output: Tensor,
    rstd: Tensor,
}

/// Queries, keys and values as attention reads them.
struct Heads {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    /// Before the norms over heads: queries and keys with the rstd of each.
    raw: Option<[(Tensor, Tensor); 2]>,
}

/// A part of [`Saved`], from which the sub-layer is run again; the default is none of it.
#[derive(Default)]
pub struct Kept {
    rstd: Option<Tensor>,
    /// Queries, keys and values: before norms over heads where there are any, because those are
    /// cheaper to compute than to keep.
    heads: Option<[Tensor; 3]>,
    attention: Option<(Activations, Tensor)>,
    /// The sub-layer's output, or what goes into the norm after it.
    output: Option<Tensor>,
    u: SavedByLayer,
    u_output: Option<AdapterSaved>,
}

impl Saved {
    pub fn lora(&self) -> impl Iterator<Item = &AdapterSaved> {
        self.u.iter().chain([&self.u_output]).flatten()
    }

    /// Gives up what `keep` does not keep, of the sub-layer with the output `x1`.
    pub fn reduced(self, x1: Tensor, keep: SavedActivations, keeps_lora: bool) -> Kept {
        let from = |least: SavedActivations| keep >= least;
        let Heads { q, k, v, raw } = self.heads;
        let heads = match raw {
            Some([(q, _), (k, _)]) => [q, k, v],
            None => [q, k, v],
        };
        let output = self.given.map_or(x1, |given| given.output);
        Kept {
            rstd: Some(self.rstd),
            heads: from(SavedActivations::Qkv).then_some(heads),
            attention: from(SavedActivations::Attention).then_some((self.o, self.lse)),
            output: from(SavedActivations::Residual).then_some(output),
            u: if keeps_lora { self.u } else { Vec::new() },
            u_output: self.u_output.filter(|_| keeps_lora),
        }
    }
}

impl Attention {
    /// `x` [M, D] to x1 [M, D], from what is kept of an earlier pass over the same rows;
    /// `next` is the layer that comes after this one.
    pub fn forward(
        &self,
        pass: &Pass<'_>,
        x: &Tensor,
        kept: Kept,
        next: &LinearAt,
    ) -> Result<(Tensor, Saved)> {
        let mut u = kept.u;
        let (rstd, heads) = match (kept.rstd, kept.heads) {
            (Some(rstd), Some(heads)) => (rstd, self.kept_heads(pass, heads)?),
            _ => self.run_heads(pass, x, &mut u)?,
        };
        let (o, lse) = match kept.attention {
            Some(kept) => kept,
            None => {
                pass.stop.check()?;
                self.attend(pass, (&heads.q, &heads.k, &heads.v))?
            }
        };
        let (output, u_output) = match kept.output {
            Some(output) => (output, kept.u_output),
            None => self.run_output(pass, x, &o, kept.u_output, next)?,
        };
        let (x1, given) = self.add(pass, x, output)?;
        let saved = Saved {
            rstd,
            heads,
            o,
            lse,
            given,
            u,
            u_output,
        };
        Ok((x1, saved))
    }

    fn attend(
        &self,
        pass: &Pass<'_>,
        qkv: (&Tensor, &Tensor, &Tensor),
    ) -> Result<(Activations, Tensor)> {
        let (o, lse) = pass
            .backend
            .attention_forward(qkv, &self.shape, &pass.sequences)?;
        Ok((o.into(), lse))
    }

    /// The rstd of the norm, and queries and keys with their values.
    fn run_heads(
        &self,
        pass: &Pass<'_>,
        x: &Tensor,
        u: &mut SavedByLayer,
    ) -> Result<(Tensor, Heads)> {
        let (qkv, rstd) = self.inputs.forward(pass, x, u, &self.output)?;
        Ok((rstd, self.heads(pass, qkv)?))
    }

    fn kept_heads(&self, pass: &Pass<'_>, [q, k, v]: [Tensor; 3]) -> Result<Heads> {
        if self.head_norms.is_some() {
            return self.heads(pass, [q, k, v]);
        }
        let raw = None;
        Ok(Heads { q, k, v, raw })
    }

    /// Queries and keys after their norms and their rotation.
    fn heads(&self, pass: &Pass<'_>, [q, k, v]: [Tensor; 3]) -> Result<Heads> {
        let Some([q_norm, k_norm]) = &self.head_norms else {
            let (q, k, raw) = (self.rotated(pass, q)?, self.rotated(pass, k)?, None);
            return Ok(Heads { q, k, v, raw });
        };
        let (normed_q, rstd_q) = q_norm.forward_heads(pass.backend, &q)?;
        let (normed_k, rstd_k) = k_norm.forward_heads(pass.backend, &k)?;
        let raw = Some([(q, rstd_q), (k, rstd_k)]);
        let (q, k) = (self.rotated(pass, normed_q)?, self.rotated(pass, normed_k)?);
        Ok(Heads { q, k, v, raw })
    }

    fn rope<'a>(&self, pass: &Pass<'a>) -> Option<&'a RopeTable> {
        self.rope.and_then(|place| pass.ropes.get(place))
    }

    fn rotated(&self, pass: &Pass<'_>, x: Tensor) -> Result<Tensor> {
        match self.rope(pass) {
            Some(table) => Ok(pass.backend.rope_forward(table, &x, &pass.sequences)?),
            None => Ok(x),
        }
    }

    /// x1 [M, D], or what goes into the norm before it; and what the adapter saves.
    fn run_output(
        &self,
        pass: &Pass<'_>,
        x: &Tensor,
        o: &Activations,
        u: Option<AdapterSaved>,
        next: &LinearAt,
    ) -> Result<(Tensor, Option<AdapterSaved>)> {
        next.linear.prefetch(pass.backend)?;
        let base = self.norm_after.is_none().then_some(x);
        pass.forward(&self.output, o, u, base)
    }

    /// x1 of the output, through the norm where one follows.
    fn add(&self, pass: &Pass<'_>, x: &Tensor, output: Tensor) -> Result<(Tensor, Option<Given>)> {
        let Some(norm) = &self.norm_after else {
            return Ok((output, None));
        };
        let (normed, rstd) = norm.forward(pass.backend, &output)?;
        let x1 = pass.backend.add(x, &normed)?;
        Ok((x1, Some(Given { output, rstd })))
    }

    /// `dx1` [M, D] to dx [M, D]; gradients of the adapters are added to `grads`.
    pub fn backward(
        &self,
        pass: &Pass<'_>,
        x: &Tensor,
        saved: Saved,
        dx1: Tensor,
        grads: &mut Gradients,
    ) -> Result<Tensor> {
        pass.stop.check()?;
        let Saved {
            rstd,
            heads,
            o,
            lse,
            given,
            u,
            u_output,
        } = saved;
        let d_o = {
            let into = match (&self.norm_after, given) {
                (Some(norm), Some(Given { output, rstd })) => {
                    norm.backward(pass.backend, &dx1, &output, &rstd, None)?
                }
                _ => dx1.clone(),
            };
            let parts = [(&self.output, &into.into(), u_output.as_ref())];
            pass.backward(&parts, Some(&o), grads)?
        };
        pass.stop.check()?;
        let inputs = AttentionSaved {
            q: &heads.q,
            k: &heads.k,
            v: &heads.v,
            o: o.tensor()?,
            lse: &lse,
        };
        let (dq, dk, dv) =
            pass.backend
                .attention_backward(&d_o, &inputs, &self.shape, &pass.sequences)?;
        let (dq, dk) = self.heads_backward(pass, &heads, dq, dk)?;
        let dys = [dq.into(), dk.into(), dv.into()];
        self.inputs.backward(pass, (x, &rstd), dys, &u, &dx1, grads)
    }

    /// Through the rotation and the norms over heads.
    fn heads_backward(
        &self,
        pass: &Pass<'_>,
        heads: &Heads,
        dq: Tensor,
        dk: Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let rotated_back = |dx: Tensor| match self.rope(pass) {
            Some(table) => pass.backend.rope_backward(table, &dx, &pass.sequences),
            None => Ok(dx),
        };
        let (dq, dk) = (rotated_back(dq)?, rotated_back(dk)?);
        let (Some([q_norm, k_norm]), Some([(q, rstd_q), (k, rstd_k)])) =
            (&self.head_norms, &heads.raw)
        else {
            return Ok((dq, dk));
        };
        Ok((
            q_norm.backward_heads(pass.backend, &dq, q, rstd_q)?,
            k_norm.backward_heads(pass.backend, &dk, k, rstd_k)?,
        ))
    }

    /// [`Self::forward`] for generation: `x` holds only new tokens, `cache` those before, and
    /// grows.
    pub fn extend(
        &self,
        pass: &Pass<'_>,
        x: &Tensor,
        cache: &mut Option<LayerCache>,
        next: &LinearAt,
    ) -> Result<Tensor> {
        let (_, Heads { q, k, v, .. }) = self.run_heads(pass, x, &mut Vec::new())?;
        let grown = match cache.take() {
            None => LayerCache { k, v },
            Some(old) => LayerCache {
                k: pass.backend.append_rows(&old.k, &k)?,
                v: pass.backend.append_rows(&old.v, &v)?,
            },
        };
        let (o, _) = self.attend(pass, (&q, &grown.k, &grown.v))?;
        *cache = Some(grown);
        let (output, _) = self.run_output(pass, x, &o, None, next)?;
        Ok(self.add(pass, x, output)?.0)
    }

    /// Every linear layer.
    pub fn linears(&self) -> impl Iterator<Item = &LinearAt> {
        self.inputs.layers().iter().chain([&self.output])
    }
}
