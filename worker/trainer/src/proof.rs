//! Proves before the first step that every adapter tensor receives a finite gradient, which is not
//! zero where theory says so.
//!
//! With B = 0 only B can have a gradient, so the proof runs with a copy of the adapters in which B
//! is not zero. A layer that silently cut the chain (a fused operation without a backward, a
//! checkpoint that drops what it computed again) would show here and not after hours of training
//! nothing.

use candle_core::Tensor;

use crate::lora::{Adapters, FactorGrad, NAMES};
use crate::model::Batch;
use crate::step::Trainer;
use crate::{Error, Result};

/// Runs one micro-batch forward and backward and looks at every gradient; changes nothing.
pub fn gradients_arrive(trainer: &Trainer<'_>, batch: &Batch) -> Result<()> {
    let mut adapters = trainer.adapters.clone();
    for factors in &mut adapters.factors {
        *factors = factors.map(|i, tensor| {
            if NAMES[i].starts_with("lora_B") {
                not_zero(tensor)
            } else {
                Ok(tensor.clone())
            }
        })?;
    }
    let probe = Trainer {
        adapters,
        decoder: trainer.decoder,
        optimizer: trainer.optimizer.clone(),
        training: trainer.training,
        learning_rate: trainer.learning_rate,
        saved: trainer.saved.clone(),
    };
    let (loss, gradients) = probe.gradients(0, std::slice::from_ref(batch))?;
    if !loss.is_finite() {
        return Err(too_large(trainer, batch, loss)?);
    }
    let mut silent = Vec::new();
    for (at, (site, grad)) in probe
        .adapters
        .sites
        .iter()
        .zip(gradients.entries())
        .enumerate()
    {
        let found: Vec<&Tensor> = grad.iter().flat_map(FactorGrad::tensors).collect();
        for (i, _) in probe.adapters.factors[at].tensors().enumerate() {
            let size = match found.get(i) {
                Some(tensor) => trainer.decoder.backend.grad_norm(&[tensor])?.value()?,
                None => 0.0,
            };
            if !(size.is_finite() && size > 0.0) {
                silent.push(format!("{}.{}", site.module_path(), NAMES[i]));
            }
        }
    }
    if silent.is_empty() {
        Ok(())
    } else {
        Err(Error::NoGradient {
            tensors: shorten(&silent),
        })
    }
}

/// Whether the model or the update makes the loss of `batch` infinite, or no number.
fn too_large(trainer: &Trainer<'_>, batch: &Batch, loss: f64) -> Result<Error> {
    let without = Adapters::without_effect(&trainer.decoder.shape, &trainer.decoder.device)?;
    if !trainer.decoder.loss(batch, &without)?.is_finite() {
        return Ok(Error::FirstLoss { loss });
    }
    let keys = if trainer.training.neftune_alpha > 0.0 {
        "lora.alpha or training.neftune_alpha"
    } else {
        "lora.alpha"
    };
    Ok(Error::FirstUpdate { loss, keys })
}

fn not_zero(b: &Tensor) -> Result<Tensor> {
    let values: Vec<f32> = (0..b.elem_count())
        .map(|i| 1e-2 * ((i * 7 % 11) as f32 / 5.0 - 1.0))
        .collect();
    Ok(Tensor::from_vec(values, b.dims(), b.device())?)
}

fn shorten(names: &[String]) -> String {
    match names {
        [a, b, c, rest @ ..] if !rest.is_empty() => {
            format!("{a}, {b}, {c} and {} more", rest.len())
        }
        few => few.join(", "),
    }
}
