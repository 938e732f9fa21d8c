//! The output layer and the loss, in chunks of rows between which a stop is heard.

use candle_core::Tensor;
use qlora_kernels::ops::cross_entropy::{self, Head, Loss, LossAndGrad};

use crate::Result;
use crate::stop::StopSignal;

/// See [`cross_entropy::forward_backward`]; each chunk is as large as those that it makes by itself.
///
/// CUDA has all chunks in its queue long before the first is computed, so a stop between them would end nothing sooner.
pub(super) fn loss(
    hidden: &Tensor,
    head: Head<'_>,
    targets: &[u32],
    scale: Option<f64>,
    stop: &StopSignal,
) -> Result<LossAndGrad> {
    let rows = head.rows.max(1);
    if hidden.device().is_cuda() || targets.len() <= rows {
        stop.check()?;
        return Ok(cross_entropy::forward_backward(hidden, head, targets, scale)?);
    }
    let (mut sum, mut grads) = (Loss::default(), Vec::new());
    for (i, chunk) in targets.chunks(rows).enumerate() {
        stop.check()?;
        let hidden = hidden.narrow(0, i * rows, chunk.len())?;
        let found = cross_entropy::forward_backward(&hidden, head, chunk, scale)?;
        sum = sum.plus(found.sum);
        grads.extend(found.grad);
    }
    let grad = if grads.is_empty() { None } else { Some(Tensor::cat(&grads, 0)?) };
    Ok(LossAndGrad { sum, grad })
}
