//! Linear layer and cross entropy together, in chunks of rows, so that [L, V] logits never exist at once.

use candle_core::{D, DType, Tensor};

use crate::Result;
use crate::cpu;
use crate::ops::activations::Activations;
use crate::ops::product::{Matrix, Products, Term};
use crate::view::{on_cpu, view};

/// Rows of logits that are held at one time.
const CHUNK: usize = 256;

/// Sum of losses in nats, and the gradient with respect to the hidden rows.
#[derive(Debug)]
pub struct LossAndGrad {
    pub sum: f64,
    /// [L, D]; absent when only the loss was asked for.
    pub grad: Option<Tensor>,
}

/// Cross entropy of `hidden` [L, D] through the frozen `head` [V, D] against `targets` [L].
///
/// The gradient is that of `sum * grad_scale`; pass `None` to get the loss alone.
pub fn forward_backward(
    hidden: &Tensor,
    products: Products,
    head: &dyn Matrix,
    targets: &[u32],
    grad_scale: Option<f64>,
) -> Result<LossAndGrad> {
    let mut sum = 0f64;
    let mut grads = Vec::new();
    for (i, chunk) in targets.chunks(CHUNK).enumerate() {
        let rows = hidden.narrow(0, i * CHUNK, chunk.len())?.into();
        let logits = products.forward(&[Term { x: &rows, w: head, scale: 1.0 }], None)?;
        let (loss, dlogits) = match (products, grad_scale) {
            (Products::Strips(_), Some(scale)) => {
                let v = logits.dim(1)?;
                let (loss, grad) = cpu::cross_entropy::loss_and_grad(&view(&logits)?, v, chunk, scale as f32);
                (loss, Some(grad.into()))
            }
            (_, None) if on_cpu(&[&logits]) => (cpu::cross_entropy::loss(&view(&logits)?, logits.dim(1)?, chunk), None),
            #[cfg(feature = "cuda")]
            _ if logits.device().is_cuda() => {
                let (loss, grad) = crate::cuda::cross_entropy(&logits.to_dtype(DType::F32)?, chunk, grad_scale)?;
                (loss, grad.map(Activations::from))
            }
            _ => {
                let (loss, grad) = reference(&logits, chunk, grad_scale)?;
                (loss, grad.map(Activations::from))
            }
        };
        sum += loss;
        if let Some(dlogits) = dlogits {
            grads.push(products.backward(&[Term { x: &dlogits, w: head, scale: 1.0 }], None)?);
        }
    }
    let grad = match grads.len() {
        0 => None,
        1 => grads.pop(),
        _ => Some(Tensor::cat(&grads, 0)?),
    };
    Ok(LossAndGrad { sum, grad })
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
