//! The output layer and the loss, in chunks of rows between which a stop is heard.

use candle_core::Tensor;
use qlora_kernels::Backend;
use qlora_kernels::types::loss::{Head, Loss, LossAndGrad};

use crate::Result;
use crate::stop::StopSignal;

/// See [`Backend::cross_entropy`]; each chunk is as large as those that it makes by itself.
///
/// CUDA has all chunks in its queue long before the first is computed, so a stop between them would end nothing sooner.
pub(super) fn loss(
    backend: &dyn Backend,
    hidden: &Tensor,
    head: Head<'_>,
    targets: &[u32],
    scale: Option<f64>,
    stop: &StopSignal,
) -> Result<LossAndGrad> {
    let rows = head.rows.max(1);
    if hidden.device().is_cuda() || targets.len() <= rows {
        stop.check()?;
        return Ok(backend.cross_entropy(hidden, head, targets, scale)?);
    }
    let (mut sum, mut grads) = (Loss::default(), Vec::new());
    for (i, chunk) in targets.chunks(rows).enumerate() {
        stop.check()?;
        let hidden = hidden.narrow(0, i * rows, chunk.len())?;
        let found = backend.cross_entropy(&hidden, head, chunk, scale)?;
        sum = sum.plus(found.sum);
        grads.extend(found.grad);
    }
    let grad = if grads.is_empty() { None } else { Some(Tensor::cat(&grads, 0)?) };
    Ok(LossAndGrad { sum, grad })
}
