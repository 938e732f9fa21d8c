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

use super::linear::LoraSaved;
use super::norm::Norm;
use super::pass::{LinearAt, Pass};
use crate::Result;
use crate::lora::Gradients;

/// Frozen weights of the sub-layer.
pub struct Attention {
    pub norm: Norm,
    pub inputs: Inputs,
    /// Of queries and of keys.
    pub head_norms: Option<[Norm; 2]>,
    pub output: LinearAt,
    pub norm_after: Option<Norm>,
    pub shape: AttentionShape,
    /// The place of the rotary embedding among those of the model; none where nothing is rotated.
    pub rope: Option<usize>,
}

/// What gives queries, keys and values.
pub enum Inputs {
    Separate([LinearAt; 3]),
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
    /// Where a norm follows: what goes into it, and its rstd.
    given: Option<(Tensor, Tensor)>,
    u: Vec<Option<LoraSaved>>,
    u_output: Option<LoraSaved>,
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
    u: Vec<Option<LoraSaved>>,
    u_output: Option<LoraSaved>,
}

impl Saved {
    pub fn lora(&self) -> impl Iterator<Item = &LoraSaved> {
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
        let output = self.given.map_or(x1, |(given, _)| given);
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
        u.resize_with(self.inputs.layers().len(), || None);
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
        let (x1, given, u_output) =
            self.add_output(pass, x, &o, (kept.output, kept.u_output), next)?;
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
        u: &mut [Option<LoraSaved>],
    ) -> Result<(Tensor, Heads)> {
        let (n, rstd) = self.norm.forward_on(pass.backend, x)?;
        let [q, k, v] = self.project(pass, &n, u)?;
        Ok((rstd, self.heads(pass, [q, k, v])?))
    }

    /// The products with the normed input; `u` is what the adapters save.
    fn project(
        &self,
        pass: &Pass<'_>,
        n: &Activations,
        u: &mut [Option<LoraSaved>],
    ) -> Result<[Tensor; 3]> {
        pass.lora_forward(self.inputs.layers(), n, u)?;
        let mut run = |i: usize, layer: &LinearAt, next: &LinearAt| -> Result<Tensor> {
            next.linear.prefetch(pass.backend)?;
            let (y, saved) = pass.forward(layer, n, u[i].take(), None)?;
            u[i] = saved;
            Ok(y)
        };
        match &self.inputs {
            Inputs::Separate([q, k, v]) => {
                Ok([run(0, q, k)?, run(1, k, v)?, run(2, v, &self.output)?])
            }
            Inputs::Fused(layer) => self.split(pass, &run(0, layer, &self.output)?),
        }
    }

    /// Columns of queries, keys and values.
    fn split(&self, pass: &Pass<'_>, qkv: &Tensor) -> Result<[Tensor; 3]> {
        let AttentionShape {
            heads,
            kv_heads,
            head_dim,
            ..
        } = self.shape;
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        let mut columns = pass.backend.split_columns(qkv, &[q, kv, kv])?.into_iter();
        let mut next = || {
            let missing = || candle_core::Error::Msg("three parts of a matrix".into());
            columns.next().ok_or_else(missing)
        };
        Ok([next()?, next()?, next()?])
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

    /// x1, what went into the norm before it, and what the adapter saves; `known` is what is kept
    /// of the output.
    #[allow(clippy::type_complexity)]
    fn add_output(
        &self,
        pass: &Pass<'_>,
        x: &Tensor,
        o: &Activations,
        (known, u): (Option<Tensor>, Option<LoraSaved>),
        next: &LinearAt,
    ) -> Result<(Tensor, Option<(Tensor, Tensor)>, Option<LoraSaved>)> {
        let base = self.norm_after.is_none().then_some(x);
        let (output, u) = match known {
            Some(known) => (known, u),
            None => {
                next.linear.prefetch(pass.backend)?;
                pass.forward(&self.output, o, u, base)?
            }
        };
        match &self.norm_after {
            None => Ok((output, None, u)),
            Some(norm) => {
                let (normed, rstd) = norm.forward(pass.backend, &output)?;
                let x1 = pass.backend.add(x, &normed)?;
                Ok((x1, Some((output, rstd)), u))
            }
        }
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
                (Some(norm), Some((given, rstd))) => {
                    norm.backward(pass.backend, &dx1, &given, &rstd, None)?
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
        let dn = self.inputs_backward(pass, x, [dq, dk, dv], &u, grads)?;
        self.norm.backward(pass.backend, &dn, x, &rstd, Some(&dx1))
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

    /// Through the products with the normed input.
    fn inputs_backward(
        &self,
        pass: &Pass<'_>,
        x: &Tensor,
        [dq, dk, dv]: [Tensor; 3],
        u: &[Option<LoraSaved>],
        grads: &mut Gradients,
    ) -> Result<Tensor> {
        let needs_input = u.iter().any(Option::is_some);
        let n = needs_input
            .then(|| self.norm.forward_on(pass.backend, x))
            .transpose()?;
        let n = n.as_ref().map(|(n, _)| n);
        let dys: Vec<Activations> = match &self.inputs {
            Inputs::Separate(_) => vec![dq.into(), dk.into(), dv.into()],
            Inputs::Fused(_) => vec![pass.backend.join_columns(&[&dq, &dk, &dv])?.into()],
        };
        let parts: Vec<_> = self
            .inputs
            .layers()
            .iter()
            .zip(&dys)
            .zip(u)
            .map(|((layer, dy), u)| (layer, dy, u.as_ref()))
            .collect();
        pass.backward(&parts, n, grads)
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
        let mut u = Vec::new();
        u.resize_with(self.inputs.layers().len(), || None);
        let (_, Heads { q, k, v, .. }) = self.run_heads(pass, x, &mut u)?;
        let grown = match cache.take() {
            None => LayerCache { k, v },
            Some(old) => LayerCache {
                k: pass.backend.append_rows(&old.k, &k)?,
                v: pass.backend.append_rows(&old.v, &v)?,
            },
        };
        let (o, _) = self.attend(pass, (&q, &grown.k, &grown.v))?;
        *cache = Some(grown);
        Ok(self.add_output(pass, x, &o, (None, None), next)?.0)
    }

    /// Every linear layer.
    pub fn linears(&self) -> impl Iterator<Item = &LinearAt> {
        self.inputs.layers().iter().chain([&self.output])
    }
}
