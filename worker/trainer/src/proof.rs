//! Before the first step: every adapter tensor receives a finite gradient, and where theory says so, not zero.
//!
//! With B = 0 only B can have a gradient, so the proof runs with a copy of the adapters in which B is not zero.
//! A layer that silently cut the chain (a fused operation without a backward, a checkpoint that drops what it
//! computed again) would show here and not after hours of training nothing.

use candle_core::Tensor;

use crate::lora::LoraPair;
use crate::model::Batch;
use crate::step::Trainer;
use crate::{Error, Result};

/// Runs one micro-batch forward and backward and looks at every gradient; changes nothing.
pub fn gradients_arrive(trainer: &Trainer<'_>, batch: &Batch) -> Result<()> {
    let mut adapters = trainer.adapters.clone();
    for pair in &mut adapters.pairs {
        let (rows, r) = pair.b.dims2()?;
        let values: Vec<f32> = (0..rows * r).map(|i| 1e-2 * ((i * 7 % 11) as f32 / 5.0 - 1.0)).collect();
        *pair = LoraPair { a: pair.a.clone(), b: Tensor::from_vec(values, (rows, r), pair.b.device())? };
    }
    let probe = Trainer {
        adapters,
        decoder: trainer.decoder,
        optimizer: trainer.optimizer.clone(),
        training: trainer.training,
        learning_rate: trainer.learning_rate,
    };
    let (_, gradients) = probe.gradients(0, std::slice::from_ref(batch))?;
    let mut silent = Vec::new();
    for (site, grad) in probe.adapters.sites.iter().zip(gradients.entries()) {
        for (which, tensor) in [("lora_A", grad.as_ref().map(|g| &g.a)), ("lora_B", grad.as_ref().map(|g| &g.b))] {
            let size = match tensor {
                Some(tensor) => tensor.abs()?.sum_all()?.to_scalar::<f32>()?,
                None => 0.0,
            };
            if !(size.is_finite() && size > 0.0) {
                silent.push(format!("{}.{which}", site.module_path()));
            }
        }
    }
    if silent.is_empty() { Ok(()) } else { Err(Error::NoGradient { tensors: shorten(&silent) }) }
}

fn shorten(names: &[String]) -> String {
    match names {
        [a, b, c, rest @ ..] if !rest.is_empty() => format!("{a}, {b}, {c} and {} more", rest.len()),
        few => few.join(", "),
    }
}
