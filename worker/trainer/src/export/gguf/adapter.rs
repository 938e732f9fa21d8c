//! An adapter alone, for llama.cpp's `--lora`.

use std::path::Path;

use candle_core::Tensor;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;
use qlora_planner::ModelShape;

use super::agreement::{self, no_files, unused_window};
use super::elements::plain;
use super::metadata;
use super::rows::{Order, reordered};
use super::writer::{Entry, Writer};
use crate::Result;
use crate::export::report::{Progress, Written};
use crate::lora::{Adapters, Site};
use crate::model::{GgufForm, Part};
use crate::weights::Checkpoint;
use crate::weights::gguf::rotary_heads;

/// Writes `adapters` for the model of `checkpoint`.
///
/// llama.cpp multiplies with alpha / rank, so alpha is the one that gives the scale of the
/// training.
pub(in crate::export) fn write(
    checkpoint: &Checkpoint,
    adapters: &Adapters,
    out: &Path,
    progress: Progress<'_>,
) -> Result<Written> {
    let Some(form) = checkpoint.gguf_form() else {
        return Err(no_files(checkpoint));
    };
    let (files, shape) = (&checkpoint.files, &checkpoint.files.shape);
    if checkpoint.gguf().is_none() {
        agreement::check(files, form, &metadata::of_shape(shape, form))?;
    }
    let tensors = tensors(shape, form, adapters)?;
    let entry = |(name, tensor): &(String, Tensor)| Entry {
        name: name.clone(),
        dims: tensor.dims().to_vec(),
        dtype: GgmlDType::F32,
    };
    let mut writer = Writer::create(
        out,
        &keys(form, adapters),
        tensors.iter().map(entry).collect(),
    )?;
    let mut written = Written {
        notes: unused_window(shape).into_iter().collect(),
        ..Written::default()
    };
    for (_, tensor) in &tensors {
        written.bytes += writer.write(&plain(tensor)?)?;
        written.tensors += 1;
        progress(written.tensors, tensors.len())?;
    }
    writer.finish(progress)?;
    Ok(written)
}

fn keys(form: &GgufForm, adapters: &Adapters) -> Vec<(String, Value)> {
    let config = adapters.config();
    let text = |key: &str, value: &str| (key.to_owned(), Value::String(value.to_owned()));
    let alpha = Value::F32((config.scale() * config.r as f64) as f32);
    vec![
        text("general.architecture", form.name()),
        text("general.type", "adapter"),
        text("adapter.type", "lora"),
        ("adapter.lora.alpha".to_owned(), alpha),
    ]
}

/// Both factors of every layer, those of B with their rows in the order of the base's.
fn tensors(
    shape: &ModelShape,
    form: &GgufForm,
    adapters: &Adapters,
) -> Result<Vec<(String, Tensor)>> {
    let name = |site: &Site, which: &str| format!("{}.{which}", Part::Weight(*site).gguf());
    let mut tensors = Vec::with_capacity(2 * adapters.sites.len());
    for (site, factors) in adapters.sites.iter().zip(&adapters.factors) {
        tensors.push((name(site, "lora_a"), factors.a.clone()));
        let heads = rotary_heads(form, shape, site.module);
        let b = reordered(&factors.b, heads, Order::Gguf)?;
        tensors.push((name(site, "lora_b"), b));
    }
    Ok(tensors)
}
