//! One tensor of a base model after the other, with the adapter merged into those that it adapts.

use candle_core::{DType, Tensor};
use qlora_config::{ModelConfig, TargetModule};

use crate::lora::{Adapters, Site};
use crate::weights::bnb;
use crate::{Error, Result};

/// What the adapter is merged into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// The checkpoint's own weights.
    Original,
    /// The weights after NF4 and back, as the configuration says: those that the adapter was
    /// trained on.
    Dequantized,
}

/// What was merged.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Merged {
    pub tensors: usize,
    /// Tensors that the adapter changed.
    pub adapted: usize,
    /// Root mean square of the adapter's update over that of the weights that it changes.
    pub update: f64,
    /// The same for what quantization does to the weights of all linear layers; 0 where it was not
    /// looked at.
    pub quantization: f64,
    pub bytes: u64,
    /// What a person should hear of the result.
    pub notes: Vec<String>,
}

/// Sums of squares.
#[derive(Default)]
struct Sums {
    update: f64,
    updated: f64,
    lost: f64,
    quantized: f64,
}

/// Merges, and keeps count.
pub(super) struct Merger<'a> {
    adapters: &'a Adapters,
    base: Base,
    model: &'a ModelConfig,
    merged: Merged,
    sums: Sums,
}

impl<'a> Merger<'a> {
    pub(super) fn new(adapters: &'a Adapters, base: Base, model: &'a ModelConfig) -> Self {
        Self {
            adapters,
            base,
            model,
            merged: Merged::default(),
            sums: Sums::default(),
        }
    }

    /// Whether the adapter changes the layer at `site`.
    pub(super) fn adapts(&self, site: Site) -> bool {
        self.adapters.index(site.layer, site.module).is_some()
    }

    /// The linear layer `weight` [out, in] of `site` as it is in the merged model, in `f32`.
    pub(super) fn linear(&mut self, site: Site, weight: &Tensor) -> Result<Tensor> {
        let original = weight.to_dtype(DType::F32)?;
        let host = qlora_kernels::backend::host();
        let dequantized = bnb::quantize(&original, self.model, &*host)?;
        let dequantized = dequantized
            .map(|nf4| host.dequantize(&nf4, DType::F32))
            .transpose()?;
        if let Some(dequantized) = &dequantized {
            self.sums.lost += squares(&(&original - dequantized)?)?;
            self.sums.quantized += squares(&original)?;
        }
        match (self.base, dequantized) {
            (Base::Original, _) => self.onto(site, original),
            (Base::Dequantized, Some(dequantized)) => self.onto(site, dequantized),
            (Base::Dequantized, None) => {
                let fault = format!("{}; merge into the original weights", bnb::BEYOND);
                Err(Error::Export {
                    path: site.module_path().into(),
                    fault,
                })
            }
        }
    }

    /// `base` [out, in] of `site`, in `f32`, with the adapter's update.
    pub(super) fn onto(&mut self, site: Site, base: Tensor) -> Result<Tensor> {
        let Some(index) = self.adapters.index(site.layer, site.module) else {
            return Ok(base);
        };
        let merged =
            self.adapters.factors[index].merged_into(&base, self.adapters.config().scale())?;
        self.sums.update += squares(&(&merged - &base)?)?;
        self.sums.updated += squares(&base)?;
        self.merged.adapted += 1;
        Ok(merged)
    }

    /// Takes note of what a person should hear.
    pub(super) fn note(&mut self, note: impl IntoIterator<Item = String>) {
        self.merged.notes.extend(note);
    }

    /// Takes note of a tensor of `bytes` that was written; returns how many there are now.
    pub(super) fn wrote(&mut self, bytes: u64) -> usize {
        self.merged.bytes += bytes;
        self.merged.tensors += 1;
        self.merged.tensors
    }

    pub(super) fn finish(self) -> Merged {
        let share = |part: f64, whole: f64| {
            if whole > 0.0 {
                (part / whole).sqrt()
            } else {
                0.0
            }
        };
        Merged {
            update: share(self.sums.update, self.sums.updated),
            quantization: share(self.sums.lost, self.sums.quantized),
            ..self.merged
        }
    }
}

fn squares(tensor: &Tensor) -> Result<f64> {
    let values = tensor.flatten_all()?.to_vec1::<f32>()?;
    Ok(values
        .into_iter()
        .map(|value| f64::from(value) * f64::from(value))
        .sum())
}

/// Where a linear layer's weight stands, by its Hugging Face name; none for other tensors.
pub(super) fn site_of(name: &str) -> Option<Site> {
    let rest = name
        .strip_prefix("model.layers.")?
        .strip_suffix(".weight")?;
    let mut parts = rest.split('.');
    let (layer, _, module) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
    let module = TargetModule::ALL.into_iter().find(|m| m.name() == module)?;
    Some(Site { layer, module })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_linear_layers_are_told_from_others() {
        let site = |layer, module| Some(Site { layer, module });
        assert_eq!(
            site_of("model.layers.12.mlp.up_proj.weight"),
            site(12, TargetModule::UpProj)
        );
        assert_eq!(
            site_of("model.layers.0.self_attn.q_proj.weight"),
            site(0, TargetModule::QProj)
        );
        for other in [
            "model.layers.0.input_layernorm.weight",
            "model.embed_tokens.weight",
            "lm_head.weight",
        ] {
            assert_eq!(site_of(other), None, "{other}");
        }
    }
}
