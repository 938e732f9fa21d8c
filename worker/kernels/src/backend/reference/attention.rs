//! Attention in candle's operations, with the scores of every pair of tokens in memory.

use std::ops::Range;

use candle_core::{D, DType, Device, Tensor};

use crate::Result;
use crate::backend::operations::{AttentionGrads, AttentionOutput};
use crate::backend::reference::cross_entropy::capped;
use crate::types::attention::{AttentionSaved, AttentionShape};
use crate::types::sequences::Span;

/// One span of `x` [M, G*E] as [H, T, E] in `f32`, its heads repeated up to `heads`.
fn heads_of(x: &Tensor, range: &Range<usize>, head_dim: usize, heads: usize) -> Result<Tensor> {
    let rows = x
        .narrow(0, range.start, range.len())?
        .to_dtype(DType::F32)?;
    let groups = rows.dim(1)? / head_dim;
    let split = rows
        .reshape((range.len(), groups, head_dim))?
        .transpose(0, 1)?
        .contiguous()?;
    if groups == heads {
        return Ok(split);
    }
    let repeat = heads / groups;
    split
        .unsqueeze(1)?
        .expand((groups, repeat, range.len(), head_dim))?
        .contiguous()?
        .reshape((heads, range.len(), head_dim))
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
    let scaled = (q.matmul(&k.transpose(1, 2)?)? * f64::from(shape.scale))?;
    let seen = shape
        .cap
        .map_or(Ok(scaled.clone()), |cap| capped(&scaled, cap))?;
    seen.broadcast_add(&mask_of(span, shape.window, q.device())?)
}

/// The slope of the cap at capped scores, and anything where a query does not see a key.
fn slope_of_cap(s: &Tensor, cap: f32) -> Result<Tensor> {
    let cap = f64::from(cap);
    // Each step gives up what it is made of: a tensor of a longer expression lives to its end.
    let part = (s.clamp(-cap, cap)? / cap)?;
    let square = part.sqr()?;
    drop(part);
    square.affine(-1.0, 1.0)
}

pub(crate) fn forward(
    (q, k, v): (&Tensor, &Tensor, &Tensor),
    shape: &AttentionShape,
    spans: &[Span],
) -> Result<AttentionOutput> {
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
    Ok((
        Tensor::cat(&outs, 0)?.to_dtype(q.dtype())?,
        Tensor::cat(&lses, 1)?,
    ))
}

pub(crate) fn backward(
    d_o: &Tensor,
    saved: &AttentionSaved<'_>,
    shape: &AttentionShape,
    spans: &[Span],
) -> Result<AttentionGrads> {
    let (mut dqs, mut dks, mut dvs) = (Vec::new(), Vec::new(), Vec::new());
    let scale = f64::from(shape.scale);
    for span in spans {
        let of = |x: &Tensor, range: &Range<usize>| heads_of(x, range, shape.head_dim, shape.heads);
        let (qh, kh, vh) = (
            of(saved.q, &span.q)?,
            of(saved.k, &span.k)?,
            of(saved.v, &span.k)?,
        );
        let (oh, doh) = (of(saved.o, &span.q)?, of(d_o, &span.q)?);
        let lse = saved
            .lse
            .narrow(1, span.q.start, span.q.len())?
            .unsqueeze(2)?;
        let s = scores(&qh, &kh, shape, span)?;
        let p = s.broadcast_sub(&lse)?.exp()?;
        let slope = shape.cap.map(|cap| slope_of_cap(&s, cap)).transpose()?;
        // Tensors of every pair of tokens are given up as soon as they are read: a plan counts on
        // four of them at one time, with a cap too.
        drop(s);
        let dp = doh.matmul(&vh.transpose(1, 2)?)?;
        let delta = (&doh * &oh)?.sum_keepdim(D::Minus1)?;
        let centered = dp.broadcast_sub(&delta)?;
        drop(dp);
        let mut ds = (&p * centered)?;
        if let Some(slope) = slope {
            ds = (ds * slope)?;
        }
        dqs.push(rows_of(&(ds.matmul(&kh)? * scale)?)?);
        dks.push(fold_groups(
            &(ds.transpose(1, 2)?.contiguous()?.matmul(&qh)? * scale)?,
            shape.kv_heads,
        )?);
        dvs.push(fold_groups(
            &p.transpose(1, 2)?.contiguous()?.matmul(&doh)?,
            shape.kv_heads,
        )?);
    }
    let join = |parts: &[Tensor], like: &Tensor| Tensor::cat(parts, 0)?.to_dtype(like.dtype());
    Ok((
        join(&dqs, saved.q)?,
        join(&dks, saved.k)?,
        join(&dvs, saved.v)?,
    ))
}
