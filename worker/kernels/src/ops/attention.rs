//! Causal attention over packed sequences with grouped heads and an optional sliding window.
//!
//! Sequences lie one after another in the token dimension; a token attends only within its own span. The
//! backward pass rebuilds the probabilities from the log-sum-exp of each row (Dao et al., FlashAttention, 2022):
//! P = exp(S - lse), dV = P^T dO, dP = dO V^T, dS = P * (dP - rowsum(dO * O)), dQ = dS K, dK = dS^T Q.

use std::ops::Range;

use candle_core::{D, DType, Device, Tensor};

use crate::Result;
use crate::cpu;
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::ops::product::Products;
use crate::ops::sequences::{Sequences, Span};
use crate::view::{on_cpu, tensor, unwritten, view};

/// The sizes of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AttentionShape {
    /// Query heads, H.
    pub heads: usize,
    /// Key and value heads, K; H is a multiple of it.
    pub kv_heads: usize,
    /// Size of one head, E.
    pub head_dim: usize,
    /// A token sees itself and the `window - 1` tokens before it.
    pub window: Option<usize>,
}

impl AttentionShape {
    /// Scores are multiplied by 1 / sqrt(E).
    pub fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
}

/// `q` [M, H*E], `k`, `v` [M', K*E] to the output [M, H*E] and the log-sum-exp of the scores [H, M] in `f32`; cuDNN's form
/// has it as [M, H], which only its own way back reads.
pub fn forward(
    (q, k, v): (&Tensor, &Tensor, &Tensor),
    shape: &AttentionShape,
    sequences: &Sequences,
    products: Products,
) -> Result<(Tensor, Tensor)> {
    #[cfg(feature = "cuda")]
    if let Some(tiles) = sequences.tiles()
        && cuda::applies(&[q, k, v])
        && cuda::attention::has_kernels(shape)
    {
        return cuda::attention::forward((q, k, v), shape, tiles);
    }
    let spans = sequences.spans();
    if !on_cpu(&[q, k, v]) {
        return reference_forward(q, k, v, shape, spans);
    }
    let (m, width) = q.dims2()?;
    let (mut o, mut lse) = (unwritten(m * width), unwritten(shape.heads * m));
    let inputs = (&*view(q)?, &*view(k)?, &*view(v)?);
    match products {
        Products::Strips(how) => cpu::attention::bf16::forward(inputs, shape, spans, &mut o, &mut lse, how),
        _ => cpu::attention::f32::forward(inputs, shape, spans, &mut o, &mut lse),
    }
    Ok((tensor(o, (m, width))?, tensor(lse, (shape.heads, m))?))
}

/// What [`backward`] needs from the forward pass.
#[derive(Debug)]
pub struct Saved<'a> {
    pub q: &'a Tensor,
    pub k: &'a Tensor,
    pub v: &'a Tensor,
    pub o: &'a Tensor,
    pub lse: &'a Tensor,
}

/// Gradients `(dq, dk, dv)` of `d_o` [M, H*E].
pub fn backward(
    d_o: &Tensor,
    saved: &Saved<'_>,
    shape: &AttentionShape,
    sequences: &Sequences,
    products: Products,
) -> Result<(Tensor, Tensor, Tensor)> {
    #[cfg(feature = "cuda")]
    if let Some(tiles) = sequences.tiles()
        && cuda::applies(&[d_o, saved.q, saved.k, saved.v, saved.o])
        && cuda::attention::has_kernels(shape)
    {
        return cuda::attention::backward(d_o, saved, shape, tiles);
    }
    let spans = sequences.spans();
    if !on_cpu(&[d_o, saved.q, saved.k, saved.v, saved.o]) {
        return reference_backward(d_o, saved, shape, spans);
    }
    let inputs = cpu::attention::BackwardInputs {
        d_o: &view(d_o)?,
        q: &view(saved.q)?,
        k: &view(saved.k)?,
        v: &view(saved.v)?,
        o: &view(saved.o)?,
        lse: &view(saved.lse)?,
    };
    let (dq, dk, dv) = match products {
        Products::Strips(how) => {
            let mut dq = unwritten(inputs.q.len());
            let (dk, dv) = cpu::attention::bf16::backward(&inputs, shape, spans, &mut dq, how);
            (dq, dk, dv)
        }
        _ => cpu::attention::f32::backward(&inputs, shape, spans),
    };
    Ok((tensor(dq, saved.q.dims())?, tensor(dk, saved.k.dims())?, tensor(dv, saved.v.dims())?))
}

/// One span of `x` [M, G*E] as [H, T, E] in `f32`, its heads repeated up to `heads`.
fn heads_of(x: &Tensor, range: &Range<usize>, head_dim: usize, heads: usize) -> Result<Tensor> {
    let rows = x.narrow(0, range.start, range.len())?.to_dtype(DType::F32)?;
    let groups = rows.dim(1)? / head_dim;
    let split = rows.reshape((range.len(), groups, head_dim))?.transpose(0, 1)?.contiguous()?;
    if groups == heads {
        return Ok(split);
    }
    let repeat = heads / groups;
    split.unsqueeze(1)?.expand((groups, repeat, range.len(), head_dim))?.contiguous()?.reshape((
        heads,
        range.len(),
        head_dim,
    ))
}

/// [H, T, E] back to [T, H*E].
fn rows_of(x: &Tensor) -> Result<Tensor> {
    let (h, t, e) = x.dims3()?;
    x.transpose(0, 1)?.contiguous()?.reshape((t, h * e))
}

/// Sums the gradients of repeated heads: [H, T, E] to [T, K*E].
fn fold_groups(x: &Tensor, kv_heads: usize) -> Result<Tensor> {
    let (h, t, e) = x.dims3()?;
    rows_of(&x.reshape((kv_heads, h / kv_heads, t, e))?.sum(1)?)
}

/// 0 where a query sees a key and minus infinity elsewhere, [Tq, Tk].
fn mask_of(span: &Span, window: Option<usize>, device: &Device) -> Result<Tensor> {
    let (tq, tk) = (span.q.len(), span.k.len());
    let mut mask = vec![f32::NEG_INFINITY; tq * tk];
    for i in 0..tq {
        let seen = span.visible(i, window);
        mask[i * tk..][seen].fill(0.0);
    }
    Tensor::from_vec(mask, (tq, tk), device)
}

fn scores(q: &Tensor, k: &Tensor, shape: &AttentionShape, span: &Span) -> Result<Tensor> {
    let raw = (q.matmul(&k.transpose(1, 2)?)? * f64::from(shape.scale()))?;
    raw.broadcast_add(&mask_of(span, shape.window, q.device())?)
}

/// [`forward`] in candle's operations.
pub fn reference_forward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    shape: &AttentionShape,
    spans: &[Span],
) -> Result<(Tensor, Tensor)> {
    let (mut outs, mut lses) = (Vec::new(), Vec::new());
    for span in spans {
        let qh = heads_of(q, &span.q, shape.head_dim, shape.heads)?;
        let kh = heads_of(k, &span.k, shape.head_dim, shape.heads)?;
        let vh = heads_of(v, &span.k, shape.head_dim, shape.heads)?;
        let s = scores(&qh, &kh, shape, span)?;
        let max = s.max_keepdim(D::Minus1)?;
        let exp = s.broadcast_sub(&max)?.exp()?;
        let total = exp.sum_keepdim(D::Minus1)?;
        outs.push(rows_of(&exp.broadcast_div(&total)?.matmul(&vh)?)?);
        lses.push((total.log()? + max)?.squeeze(2)?);
    }
    Ok((Tensor::cat(&outs, 0)?.to_dtype(q.dtype())?, Tensor::cat(&lses, 1)?))
}

/// [`backward`] in candle's operations.
pub fn reference_backward(
    d_o: &Tensor,
    saved: &Saved<'_>,
    shape: &AttentionShape,
    spans: &[Span],
) -> Result<(Tensor, Tensor, Tensor)> {
    let (mut dqs, mut dks, mut dvs) = (Vec::new(), Vec::new(), Vec::new());
    let scale = f64::from(shape.scale());
    for span in spans {
        let of = |x: &Tensor, range: &Range<usize>| heads_of(x, range, shape.head_dim, shape.heads);
        let (qh, kh, vh) = (of(saved.q, &span.q)?, of(saved.k, &span.k)?, of(saved.v, &span.k)?);
        let (oh, doh) = (of(saved.o, &span.q)?, of(d_o, &span.q)?);
        let lse = saved.lse.narrow(1, span.q.start, span.q.len())?.unsqueeze(2)?;
        let p = scores(&qh, &kh, shape, span)?.broadcast_sub(&lse)?.exp()?;
        let dp = doh.matmul(&vh.transpose(1, 2)?)?;
        let delta = (&doh * &oh)?.sum_keepdim(D::Minus1)?;
        let ds = (&p * dp.broadcast_sub(&delta)?)?;
        dqs.push(rows_of(&(ds.matmul(&kh)? * scale)?)?);
        dks.push(fold_groups(&(ds.transpose(1, 2)?.contiguous()?.matmul(&qh)? * scale)?, shape.kv_heads)?);
        dvs.push(fold_groups(&p.transpose(1, 2)?.contiguous()?.matmul(&doh)?, shape.kv_heads)?);
    }
    let join = |parts: &[Tensor], like: &Tensor| Tensor::cat(parts, 0)?.to_dtype(like.dtype());
    Ok((join(&dqs, saved.q)?, join(&dks, saved.k)?, join(&dvs, saved.v)?))
}
