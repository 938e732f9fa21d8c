//! Cross entropy: chunks of rows composed of a backend's other operations, and losses of logits in
//! candle's.

use candle_core::{D, DType, Tensor};

use crate::Result;
use crate::backend::operations::Backend;
use crate::types::activations::Activations;
use crate::types::loss::{Head, Loss, LossAndGrad};
use crate::types::matmul::Term;

pub(crate) fn in_chunks(
    backend: &dyn Backend,
    hidden: &Tensor,
    head: Head<'_>,
    targets: &[u32],
    grad_scale: Option<f64>,
    goes_on: &dyn Fn() -> bool,
) -> Result<Option<LossAndGrad>> {
    let (mut sum, mut grads) = (Loss::default(), Vec::new());
    let rows = head.rows.max(1);
    for (i, chunk) in targets.chunks(rows).enumerate() {
        if !goes_on() {
            return Ok(None);
        }
        let hidden = hidden.narrow(0, i * rows, chunk.len())?.into();
        let logits = backend.matmul_forward(&[term(&hidden, head)], None)?;
        let (loss, dlogits) =
            backend.cross_entropy_of_logits(&logits, head.cap, chunk, grad_scale)?;
        drop(logits);
        sum = sum.plus(loss);
        if let Some(dlogits) = dlogits {
            grads.push(backend.matmul_backward(&[term(&dlogits, head)], None)?);
        }
    }
    let grad = match grads.len() {
        0 => None,
        1 => grads.pop(),
        _ => Some(Tensor::cat(&grads, 0)?),
    };
    Ok(Some(LossAndGrad { sum, grad }))
}

/// Scaled and capped logits in `f32`.
pub(crate) fn logits(
    backend: &dyn Backend,
    hidden: &Activations,
    head: Head<'_>,
) -> Result<Tensor> {
    let logits = backend
        .matmul_forward(&[term(hidden, head)], None)?
        .to_dtype(DType::F32)?;
    head.cap
        .map_or(Ok(logits.clone()), |cap| capped(&logits, cap))
}

fn term<'a>(x: &'a Activations, head: Head<'a>) -> Term<'a> {
    Term {
        x,
        w: head.weight,
        scale: head.scale,
    }
}

/// cap * tanh(x / cap).
pub(crate) fn capped(x: &Tensor, cap: f32) -> Result<Tensor> {
    let cap = f64::from(cap);
    (x / cap)?.tanh()? * cap
}

/// Loss and gradient of `logits` [L, V].
pub(crate) fn of_logits(
    logits: &Tensor,
    cap: Option<f32>,
    targets: &[u32],
    scale: Option<f64>,
) -> Result<(Loss, Option<Activations>)> {
    let (rows, v) = logits.dims2()?;
    let raw = logits.to_dtype(DType::F32)?;
    let l32 = cap.map_or(Ok(raw.clone()), |cap| capped(&raw, cap))?;
    let max = l32.max_keepdim(D::Minus1)?;
    let exp = l32.broadcast_sub(&max)?.exp()?;
    let total = exp.sum_keepdim(D::Minus1)?;
    let index = Tensor::new(targets, logits.device())?.reshape((rows, 1))?;
    let picked = l32.gather(&index, 1)?;
    let loss = ((total.log()? + max)? - picked)?
        .sum_all()?
        .to_scalar::<f32>()?;
    let loss = Loss::from(f64::from(loss));
    let Some(scale) = scale else {
        return Ok((loss, None));
    };
    let mut onehot = vec![0f32; rows * v];
    for (row, &target) in targets.iter().enumerate() {
        onehot[row * v + target as usize] = 1.0;
    }
    let onehot = Tensor::from_vec(onehot, (rows, v), logits.device())?;
    let mut grad = ((exp.broadcast_div(&total)? - onehot)? * scale)?;
    if let Some(cap) = cap {
        // The slope of the cap is 1 - (capped / cap)^2.
        let slope = (l32 / f64::from(cap))?.sqr()?.affine(-1.0, 1.0)?;
        grad = (grad * slope)?;
    }
    Ok((loss, Some(grad.to_dtype(logits.dtype())?.into())))
}
