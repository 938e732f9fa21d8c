//! Linear layer and cross entropy together, in chunks of rows, so that [L, V] logits never exist at once.

use candle_core::{D, DType, Tensor};

use crate::Result;
use crate::cpu;
use crate::ops::activations::Activations;
use crate::ops::product::{Matrix, Products, Term};
use crate::view::{on_cpu, view};

/// The frozen output layer, and how products with it are made.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// [V, D].
    pub weight: &'a dyn Matrix,
    pub products: Products,
    /// Rows of logits that are held at one time.
    pub rows: usize,
}

/// A sum of losses in nats, part of which a device may still be computing.
#[derive(Debug, Default)]
pub struct Loss {
    known: f64,
    /// Losses of single rows.
    pending: Vec<Tensor>,
}

impl Loss {
    /// Both together.
    pub fn plus(mut self, other: Self) -> Self {
        self.known += other.known;
        self.pending.extend(other.pending);
        self
    }

    /// Waits for the device.
    pub fn value(&self) -> Result<f64> {
        let mut sum = self.known;
        for losses in &self.pending {
            sum += losses.to_vec1::<f32>()?.into_iter().map(f64::from).sum::<f64>();
        }
        Ok(sum)
    }
}

#[cfg(feature = "cuda")]
impl From<Vec<Tensor>> for Loss {
    fn from(pending: Vec<Tensor>) -> Self {
        Self { known: 0.0, pending }
    }
}

impl From<f64> for Loss {
    fn from(known: f64) -> Self {
        Self { known, pending: Vec::new() }
    }
}

/// Sum of losses, and the gradient with respect to the hidden rows.
#[derive(Debug)]
pub struct LossAndGrad {
    pub sum: Loss,
    /// [L, D]; absent when only the loss was asked for.
    pub grad: Option<Tensor>,
}

/// Cross entropy of `hidden` [L, D] through `head` against `targets` [L].
///
/// The gradient is that of `sum * grad_scale`; pass `None` to get the loss alone.
pub fn forward_backward(
    hidden: &Tensor,
    head: Head<'_>,
    targets: &[u32],
    grad_scale: Option<f64>,
) -> Result<LossAndGrad> {
    #[cfg(feature = "cuda")]
    if head.products == Products::CublasLt {
        return crate::cuda::cross_entropy::forward_backward(hidden, head, targets, grad_scale);
    }
    let (mut sum, mut grads) = (Loss::default(), Vec::new());
    let rows = head.rows.max(1);
    for (i, chunk) in targets.chunks(rows).enumerate() {
        let hidden = hidden.narrow(0, i * rows, chunk.len())?.into();
        let (loss, dlogits) = of_chunk(&hidden, head, chunk, grad_scale)?;
        sum = sum.plus(loss);
        if let Some(dlogits) = dlogits {
            grads.push(head.products.backward(&[Term { x: &dlogits, w: head.weight, scale: 1.0 }], None)?);
        }
    }
    let grad = match grads.len() {
        0 => None,
        1 => grads.pop(),
        _ => Some(Tensor::cat(&grads, 0)?),
    };
    Ok(LossAndGrad { sum, grad })
}

/// Losses and the gradient of the logits of `hidden` [L, D], few enough that all their logits may exist.
fn of_chunk(
    hidden: &Activations,
    Head { weight, products, .. }: Head<'_>,
    targets: &[u32],
    scale: Option<f64>,
) -> Result<(Loss, Option<Activations>)> {
    of_logits(&products.forward(&[Term { x: hidden, w: weight, scale: 1.0 }], None)?, products, targets, scale)
}

/// Losses and their gradient of `logits` [L, V], in `f32` on a GPU.
pub fn of_logits(
    logits: &Tensor,
    products: Products,
    targets: &[u32],
    scale: Option<f64>,
) -> Result<(Loss, Option<Activations>)> {
    let v = logits.dim(1)?;
    match (products, scale) {
        #[cfg(feature = "cuda")]
        (Products::CublasLt, _) => {
            let (losses, grad) = crate::cuda::cross_entropy::loss_and_grad(logits, targets, scale)?;
            Ok((vec![losses].into(), grad.map(Activations::from)))
        }
        (Products::Strips(_), Some(scale)) => {
            let (loss, grad) = cpu::cross_entropy::loss_and_grad(&view(logits)?, v, targets, scale as f32);
            Ok((loss.into(), Some(grad.into())))
        }
        (_, None) if on_cpu(&[logits]) => Ok((cpu::cross_entropy::loss(&view(logits)?, v, targets).into(), None)),
        _ => {
            let (loss, grad) = reference(logits, targets, scale)?;
            Ok((loss.into(), grad.map(Activations::from)))
        }
    }
}

/// Loss and gradient of `logits` [L, V] in candle's operations.
pub fn reference(logits: &Tensor, targets: &[u32], scale: Option<f64>) -> Result<(f64, Option<Tensor>)> {
    let (rows, v) = logits.dims2()?;
    let l32 = logits.to_dtype(DType::F32)?;
    let max = l32.max_keepdim(D::Minus1)?;
    let exp = l32.broadcast_sub(&max)?.exp()?;
    let total = exp.sum_keepdim(D::Minus1)?;
    let index = Tensor::new(targets, logits.device())?.reshape((rows, 1))?;
    let picked = l32.gather(&index, 1)?;
    let loss = ((total.log()? + max)? - picked)?.sum_all()?.to_scalar::<f32>()?;
    let Some(scale) = scale else { return Ok((f64::from(loss), None)) };
    let mut onehot = vec![0f32; rows * v];
    for (row, &target) in targets.iter().enumerate() {
        onehot[row * v + target as usize] = 1.0;
    }
    let onehot = Tensor::from_vec(onehot, (rows, v), logits.device())?;
    let grad = ((exp.broadcast_div(&total)? - onehot)? * scale)?.to_dtype(logits.dtype())?;
    Ok((f64::from(loss), Some(grad)))
}
