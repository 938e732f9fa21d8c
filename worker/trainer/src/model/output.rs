//! The output layer and the loss. A stop takes effect between chunks of rows.

use candle_core::Tensor;
use qlora_kernels::Backend;
use qlora_kernels::types::loss::{Head, LossAndGrad};

use crate::stop::StopSignal;
use crate::{Error, Result};

/// See [`Backend::cross_entropy`].
///
/// # Errors
/// Also [`Error::Stopped`], once `stop` asks for it.
pub(super) fn loss(
    backend: &dyn Backend,
    hidden: &Tensor,
    head: Head<'_>,
    targets: &[u32],
    scale: Option<f64>,
    stop: &StopSignal,
) -> Result<LossAndGrad> {
    let goes_on = || stop.check().is_ok();
    backend
        .cross_entropy(hidden, head, targets, scale, &goes_on)?
        .ok_or(Error::Stopped)
}
