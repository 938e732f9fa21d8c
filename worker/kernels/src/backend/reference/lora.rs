//! A-projections of adapters, one at a time, composed of a backend's other operations.

use candle_core::Tensor;

use crate::Result;
use crate::backend::operations::Backend;
use crate::types::activations::Activations;
use crate::types::lora::{LoraBackwardInput, LoraInput};
use crate::types::matmul::Term;

pub(crate) fn forward(
    backend: &dyn Backend,
    x: &Activations,
    adapters: &[LoraInput<'_>],
) -> Result<Vec<Activations>> {
    let one = |adapter: &LoraInput<'_>| {
        let dropped = dropped(backend, x, adapter)?;
        let term = Term {
            x: dropped.as_ref().unwrap_or(x),
            w: adapter.a,
            scale: 1.0,
        };
        Ok(backend.matmul_forward(&[term], None)?.into())
    };
    adapters.iter().map(one).collect()
}

pub(crate) fn backward(
    backend: &dyn Backend,
    x: &Activations,
    adapters: &[LoraBackwardInput<'_>],
) -> Result<(Vec<Tensor>, Option<Tensor>)> {
    let (mut grads, mut sum) = (Vec::with_capacity(adapters.len()), None);
    for LoraBackwardInput { adapter, du } in adapters {
        let dropped = dropped(backend, x, adapter)?;
        grads.push(backend.weight_gradient(du, dropped.as_ref().unwrap_or(x), 1.0)?);
        if let Some(key) = &adapter.mask {
            let through = backend.matmul_backward(
                &[Term {
                    x: du,
                    w: adapter.a,
                    scale: 1.0,
                }],
                None,
            )?;
            sum = Some(backend.add_dropout(&through, key, sum.as_ref())?);
        }
    }
    Ok((grads, sum))
}

/// `x` after the adapter's mask; none where there is no mask.
fn dropped(
    backend: &dyn Backend,
    x: &Activations,
    adapter: &LoraInput<'_>,
) -> Result<Option<Activations>> {
    adapter
        .mask
        .as_ref()
        .map(|key| backend.dropout(x, key))
        .transpose()
}
