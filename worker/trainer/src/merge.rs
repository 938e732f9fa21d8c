//! An adapter merged into its base: a Hugging Face folder that any program loads without knowing of adapters.
//!
//! Training ran on the quantised base, so there are two bases to merge into. The original weights keep what
//! quantisation lost, but the adapter was not trained on them; the dequantised weights are those that it was trained
//! on. Both are offered, and how far they lie apart is told. Tensors are read, merged and written one at a time.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use qlora_config::{ModelConfig, TargetModule};
use qlora_kernels::Nf4Tensor;
use serde::Serialize;

use crate::adapter;
use crate::lora::Adapters;
use crate::weights::{Checkpoint, ShardWriter};
use crate::{Error, Result};

/// What the adapter is merged into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// The checkpoint's own weights.
    Original,
    /// The weights after NF4 and back, as `model` says: those that the adapter was trained on.
    Dequantised,
}

/// What was merged.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Merged {
    pub tensors: usize,
    /// Tensors that the adapter changed.
    pub adapted: usize,
    /// Root mean square of the adapter's update over that of the weights that it changes.
    pub update: f64,
    /// The same for what quantisation does to the weights of all linear layers.
    pub quantisation: f64,
    pub bytes: u64,
}

/// Files beside the weights that make a folder a model.
const COMPANIONS: [&str; 8] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "tokenizer.model",
    "model.safetensors.index.json",
];

/// Writes the model in `folder` with the adapter in `adapter` to `out`, which must not exist.
///
/// # Errors
/// The base is no folder of 16- or 32-bit weights, the adapter belongs to another base, or `out` exists.
pub fn merge(
    folder: &Path,
    adapter: &Path,
    out: &Path,
    base: Base,
    model: &ModelConfig,
    mut progress: impl FnMut(usize, usize),
) -> Result<Merged> {
    if out.exists() {
        return Err(Error::Merge { path: out.into(), fault: "exists already; name another folder".into() });
    }
    let checkpoint = Checkpoint::open(folder)?;
    let shards = checkpoint.shards().ok_or_else(|| Error::Merge {
        path: folder.into(),
        fault: "is a GGUF file; give the Hugging Face folder of the model".into(),
    })?;
    let adapters = adapter::load(adapter, &checkpoint.files.shape, &checkpoint.fingerprint()?, 0, &Device::Cpu)?;
    let partial = partial_of(out);
    remove(&partial)?;
    fs::create_dir_all(&partial).map_err(Error::io(&partial))?;
    let mut merger = Merger { adapters: &adapters, base, model, merged: Merged::default(), sums: Sums::default() };
    let total = shards.count();
    for shard in shards.files() {
        let mut writer = ShardWriter::create(&partial.join(&shard.name), &shard.entries)?;
        for entry in &shard.entries {
            if entry.is_quantised() {
                return Err(Error::Merge {
                    path: folder.into(),
                    fault: format!("holds quantised weights (`{}`); give the 16-bit model", entry.name),
                });
            }
            let tensor = merger.tensor(&entry.name, &shards.native(&entry.name, &Device::Cpu)?)?;
            merger.merged.bytes += writer.write(&tensor)?;
            merger.merged.tensors += 1;
            progress(merger.merged.tensors, total);
        }
        writer.finish()?;
    }
    for name in COMPANIONS.iter().filter(|name| folder.join(name).exists()) {
        fs::copy(folder.join(name), partial.join(name)).map_err(Error::io(partial.join(name)))?;
    }
    fs::rename(&partial, out).map_err(Error::io(out))?;
    Ok(merger.finish())
}

fn partial_of(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() { fs::remove_dir_all(folder).map_err(Error::io(folder)) } else { Ok(()) }
}

/// Sums of squares.
#[derive(Default)]
struct Sums {
    update: f64,
    updated: f64,
    lost: f64,
    quantised: f64,
}

struct Merger<'a> {
    adapters: &'a Adapters,
    base: Base,
    model: &'a ModelConfig,
    merged: Merged,
    sums: Sums,
}

impl Merger<'_> {
    /// The tensor `name` as it is in the merged model, in its own element type.
    fn tensor(&mut self, name: &str, tensor: &Tensor) -> Result<Tensor> {
        let Some((layer, module)) = linear_layer(name) else { return Ok(tensor.clone()) };
        let original = tensor.to_dtype(DType::F32)?;
        let dequantised = self.dequantised(&original)?;
        self.sums.lost += squares(&(&original - &dequantised)?)?;
        self.sums.quantised += squares(&original)?;
        let base = if self.base == Base::Original { original } else { dequantised };
        let Some(index) = self.adapters.index(layer, module) else { return Ok(base.to_dtype(tensor.dtype())?) };
        let merged = self.adapters.factors[index].merged_into(&base, self.adapters.config().scale())?;
        self.sums.update += squares(&(&merged - &base)?)?;
        self.sums.updated += squares(&base)?;
        self.merged.adapted += 1;
        Ok(merged.to_dtype(tensor.dtype())?)
    }

    fn dequantised(&self, original: &Tensor) -> Result<Tensor> {
        let (block, double) = (self.model.block_size, self.model.double_quant);
        let nf4 = Nf4Tensor::quantise_matrix(original, block, double, &Device::Cpu)?;
        Ok(nf4.dequantise(DType::F32)?)
    }

    fn finish(self) -> Merged {
        let share = |part: f64, whole: f64| if whole > 0.0 { (part / whole).sqrt() } else { 0.0 };
        Merged {
            update: share(self.sums.update, self.sums.updated),
            quantisation: share(self.sums.lost, self.sums.quantised),
            ..self.merged
        }
    }
}

fn squares(tensor: &Tensor) -> Result<f64> {
    Ok(f64::from(tensor.sqr()?.sum_all()?.to_scalar::<f32>()?))
}

/// The block and module of a linear layer's weight, by its Hugging Face name.
fn linear_layer(name: &str) -> Option<(usize, TargetModule)> {
    let rest = name.strip_prefix("model.layers.")?.strip_suffix(".weight")?;
    let mut parts = rest.split('.');
    let (layer, _, module) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
    let module = TargetModule::ALL.into_iter().find(|m| m.name() == module)?;
    Some((layer, module))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_linear_layers_are_told_from_others() {
        assert_eq!(linear_layer("model.layers.12.mlp.up_proj.weight"), Some((12, TargetModule::UpProj)));
        assert_eq!(linear_layer("model.layers.0.self_attn.q_proj.weight"), Some((0, TargetModule::QProj)));
        for other in ["model.layers.0.input_layernorm.weight", "model.embed_tokens.weight", "lm_head.weight"] {
            assert_eq!(linear_layer(other), None, "{other}");
        }
    }
}
