//! The weights of a checkpoint, each in the form that the configuration asks for.

use candle_core::{DType, Device, Tensor};
use qlora_config::{ModelConfig, Quantization};
use qlora_kernels::Backend;

use super::{Checkpoint, Folder, Ggml, Source};
use crate::lora::Site;
use crate::model::Part;
use crate::weights::gguf::{rotary_heads, rotary_row};
use crate::weights::{FrozenWeight, Gguf, Plain, bnb};
use crate::{Error, Result};

impl Checkpoint {
    /// The weight at `site`, held as `model` asks.
    pub fn weight(
        &self,
        site: Site,
        model: &ModelConfig,
        backend: &dyn Backend,
    ) -> Result<Box<dyn FrozenWeight>> {
        let device = backend.device();
        let fault = |fault: &str| Error::Model {
            path: self.files.path.clone(),
            fault: fault.into(),
            help: ENLARGED,
        };
        match &self.source {
            Source::HuggingFace(folder) => {
                let name = Part::Weight(site).hugging_face(&self.files.shape.form);
                folder.weight(&name, model, backend)
            }
            Source::Gguf(ggml) => {
                if model.quantization == Quantization::Nf4 {
                    return Err(Error::Model {
                        path: self.files.path.clone(),
                        fault: "model.quantization: nf4 would quantize the blocks of a GGUF file a second time".into(),
                        help: "leave it at auto, or name the model's Hugging Face folder",
                    });
                }
                // What becomes something else is read where that is made.
                let stays = model.quantization != Quantization::None;
                let weight =
                    self.gguf_weight(ggml, site, if stays { device } else { &Device::Cpu })?;
                if stays {
                    Ok(weight)
                } else {
                    requantize(weight, model, backend, fault)
                }
            }
            Source::Random(weights) => {
                let dims = self.files.shape.projection(site.module);
                let weight = weights.projection(site.layer, site.module, dims)?;
                requantize(Box::new(Plain(weight)), model, backend, fault)
            }
        }
    }

    fn gguf_weight(
        &self,
        ggml: &Ggml,
        site: Site,
        device: &Device,
    ) -> Result<Box<dyn FrozenWeight>> {
        let (name, shape) = (Part::Weight(site).gguf(), &self.files.shape);
        let tensor = match rotary_heads(ggml.form, shape, site.module) {
            Some(heads) => ggml.file.read_rotary(&name, heads, device)?,
            None => ggml.file.read(&name, device)?,
        };
        Ok(Box::new(Gguf(tensor)))
    }

    /// The norm or bias `part` as `dtype`.
    pub fn vector(&self, part: Part, dtype: DType, device: &Device) -> Result<Tensor> {
        let shape = &self.files.shape;
        match &self.source {
            Source::HuggingFace(folder) => {
                let name = part.hugging_face(&shape.form);
                folder.shards.tensor(&name, dtype, device)
            }
            Source::Gguf(ggml) => {
                let vector = self.gguf_vector(ggml, part)?;
                Ok(vector.to_dtype(dtype)?.to_device(device)?)
            }
            Source::Random(_) => {
                // Norms have the factor 1.
                let is_zero = matches!(part, Part::Bias(_)) || shape.form.unit_offset;
                let value = if is_zero { 0f32 } else { 1.0 };
                let vector = Tensor::full(value, part.dims(shape), &Device::Cpu)?;
                Ok(vector.to_dtype(dtype)?.to_device(device)?)
            }
        }
    }

    /// The norm or bias `part` as Hugging Face checkpoints hold it.
    fn gguf_vector(&self, ggml: &Ggml, part: Part) -> Result<Tensor> {
        let (cpu, shape) = (&Device::Cpu, &self.files.shape);
        let vector = ggml.file.read(&part.gguf(), cpu)?.dequantize(cpu)?;
        match part {
            Part::Norm { .. } | Part::FinalNorm if shape.form.unit_offset => Ok((vector - 1.0)?),
            Part::Bias(site) => {
                let Some(heads) = rotary_heads(ggml.form, shape, site.module) else {
                    return Ok(vector);
                };
                let rows = vector.dim(0)?;
                let places: Vec<u32> = (0..rows)
                    .map(|row| rotary_row(row, rows, heads) as u32)
                    .collect();
                Ok(vector.index_select(&Tensor::new(places, cpu)?, 0)?)
            }
            _ => Ok(vector),
        }
    }

    /// The embedding [V, D].
    pub fn embedding(&self, backend: &dyn Backend) -> Result<Box<dyn FrozenWeight>> {
        self.table(Part::Embedding, backend)
    }

    /// The output layer [V, D], or none where the embedding serves as such.
    pub fn head(&self, backend: &dyn Backend) -> Result<Option<Box<dyn FrozenWeight>>> {
        if self.files.shape.tied_embeddings {
            return Ok(None);
        }
        self.table(Part::Head, backend).map(Some)
    }

    fn table(&self, part: Part, backend: &dyn Backend) -> Result<Box<dyn FrozenWeight>> {
        let device = backend.device();
        let table: Box<dyn FrozenWeight> = match &self.source {
            Source::HuggingFace(folder) => {
                let name = part.hugging_face(&self.files.shape.form);
                Box::new(Plain(folder.shards.native(&name, &Device::Cpu)?))
            }
            Source::Gguf(ggml) => Box::new(Gguf(ggml.file.read(&part.gguf(), &Device::Cpu)?)),
            Source::Random(weights) => {
                let shape = (self.files.shape.vocabulary, self.files.shape.hidden);
                Box::new(Plain(if part == Part::Head {
                    weights.head(shape)?
                } else {
                    weights.embedding(shape)?
                }))
            }
        };
        if backend.properties().tables_as_stored {
            return Ok(table);
        }
        // The output layer is multiplied with many times a step, in one element type.
        let table = qlora_kernels::backend::host().dequantize(&*table, backend.dtype())?;
        Ok(Box::new(Plain(table.to_device(device)?)))
    }
}

impl Folder {
    fn weight(
        &self,
        name: &str,
        model: &ModelConfig,
        backend: &dyn Backend,
    ) -> Result<Box<dyn FrozenWeight>> {
        if bnb::is_quantized(&self.shards, name) {
            return Ok(Box::new(bnb::read(&self.shards, name, backend.device())?));
        }
        if model.quantization == Quantization::Gguf {
            return Err(self
                .shards
                .fault(name, "is not of a GGUF file; set model.quantization: nf4"));
        }
        let fault = |fault: &str| self.shards.fault(name, &format!("{fault}; {ENLARGED}"));
        requantize(
            Box::new(Plain(self.shards.native(name, &Device::Cpu)?)),
            model,
            backend,
            fault,
        )
    }
}

/// What helps against [`bnb::BEYOND`] where a model is loaded.
const ENLARGED: &str = "set model.double_quant: false or model.quantization: none";

/// Brings a weight into the form that the configuration asks for.
fn requantize(
    weight: Box<dyn FrozenWeight>,
    model: &ModelConfig,
    backend: &dyn Backend,
    fault: impl FnOnce(&str) -> Error,
) -> Result<Box<dyn FrozenWeight>> {
    let matrix = match model.quantization {
        Quantization::Gguf => return Ok(weight),
        Quantization::None => {
            let weight = qlora_kernels::backend::host().dequantize(&*weight, backend.dtype())?;
            return Ok(Box::new(Plain(weight.to_device(backend.device())?)));
        }
        Quantization::Nf4 | Quantization::Auto => weight.as_stored()?,
    };
    match bnb::quantize(&matrix, model, backend)? {
        Some(matrix) => Ok(Box::new(matrix)),
        None => Err(fault(bnb::BEYOND)),
    }
}
