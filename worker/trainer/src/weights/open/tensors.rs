//! The weights of a checkpoint, each in the form that the configuration asks for.

use candle_core::{DType, Device, Tensor};
use qlora_config::{ModelConfig, Quantization, TargetModule};
use qlora_kernels::Backend;

use super::{Checkpoint, Folder, Ggml, Source};
use crate::lora::Site;
use crate::weights::gguf::gguf_name;
use crate::weights::{FrozenWeight, Gguf, Plain, bnb};
use crate::{Error, Result};

impl Checkpoint {
    /// The linear layer `module` of block `layer`, held as `model` asks.
    pub fn projection(
        &self,
        layer: usize,
        module: TargetModule,
        model: &ModelConfig,
        backend: &dyn Backend,
    ) -> Result<Box<dyn FrozenWeight>> {
        let device = backend.device();
        match &self.source {
            Source::HuggingFace(folder) => folder.projection(layer, module, model, backend),
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
                let weight = self.gguf_projection(
                    ggml,
                    layer,
                    module,
                    if stays { device } else { &Device::Cpu },
                )?;
                let fault = |fault: &str| Error::Model {
                    path: self.files.path.clone(),
                    fault: fault.into(),
                    help: ENLARGED,
                };
                if stays {
                    Ok(weight)
                } else {
                    requantise(weight, model, backend, fault)
                }
            }
            Source::Random(weights) => {
                let weight =
                    weights.projection(layer, module, self.files.shape.projection(module))?;
                let fault = |fault: &str| Error::Model {
                    path: self.files.path.clone(),
                    fault: fault.into(),
                    help: ENLARGED,
                };
                requantise(Box::new(Plain(weight)), model, backend, fault)
            }
        }
    }

    fn gguf_projection(
        &self,
        ggml: &Ggml,
        layer: usize,
        module: TargetModule,
        device: &Device,
    ) -> Result<Box<dyn FrozenWeight>> {
        let name = gguf_name(&format!("{}.weight", Site { layer, module }.module_path()));
        let shape = &self.files.shape;
        let tensor = match module {
            TargetModule::QProj => ggml.file.read_rotary(&name, shape.heads, device)?,
            TargetModule::KProj => ggml.file.read_rotary(&name, shape.kv_heads, device)?,
            _ => ggml.file.read(&name, device)?,
        };
        Ok(Box::new(Gguf(tensor)))
    }

    /// The two norms of block `layer`, before attention and before the feed-forward layer.
    pub fn norms(&self, layer: usize, dtype: DType, device: &Device) -> Result<(Tensor, Tensor)> {
        let names = match &self.source {
            Source::HuggingFace(_) => ["input_layernorm", "post_attention_layernorm"]
                .map(|n| format!("model.layers.{layer}.{n}.weight")),
            Source::Gguf(_) | Source::Random(_) => {
                ["attn_norm", "ffn_norm"].map(|n| format!("blk.{layer}.{n}.weight"))
            }
        };
        Ok((
            self.vector(&names[0], dtype, device)?,
            self.vector(&names[1], dtype, device)?,
        ))
    }

    pub fn final_norm(&self, dtype: DType, device: &Device) -> Result<Tensor> {
        match &self.source {
            Source::HuggingFace(_) => self.vector("model.norm.weight", dtype, device),
            Source::Gguf(_) | Source::Random(_) => self.vector("output_norm.weight", dtype, device),
        }
    }

    fn vector(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        match &self.source {
            Source::HuggingFace(folder) => folder.shards.tensor(name, dtype, device),
            Source::Gguf(ggml) => {
                let vector = ggml
                    .file
                    .read(name, &Device::Cpu)?
                    .dequantize(&Device::Cpu)?;
                Ok(vector.to_dtype(dtype)?.to_device(device)?)
            }
            Source::Random(_) => Ok(
                Tensor::ones(self.files.shape.hidden, dtype, &Device::Cpu)?.to_device(device)?
            ),
        }
    }

    /// The embedding [V, D].
    pub fn embedding(&self, backend: &dyn Backend) -> Result<Box<dyn FrozenWeight>> {
        self.table("model.embed_tokens.weight", "token_embd.weight", backend)
    }

    /// The output layer [V, D], or none where the embedding serves as such.
    pub fn head(&self, backend: &dyn Backend) -> Result<Option<Box<dyn FrozenWeight>>> {
        if self.files.shape.tied_embeddings {
            return Ok(None);
        }
        self.table("lm_head.weight", "output.weight", backend)
            .map(Some)
    }

    fn table(
        &self,
        folder_name: &str,
        gguf_name: &str,
        backend: &dyn Backend,
    ) -> Result<Box<dyn FrozenWeight>> {
        let device = backend.device();
        let table: Box<dyn FrozenWeight> = match &self.source {
            Source::HuggingFace(folder) => {
                Box::new(Plain(folder.shards.native(folder_name, &Device::Cpu)?))
            }
            Source::Gguf(ggml) => Box::new(Gguf(ggml.file.read(gguf_name, &Device::Cpu)?)),
            Source::Random(weights) => {
                let shape = (self.files.shape.vocabulary, self.files.shape.hidden);
                let is_head = gguf_name == "output.weight";
                Box::new(Plain(if is_head {
                    weights.head(shape)?
                } else {
                    weights.embedding(shape)?
                }))
            }
        };
        if device.is_cpu() {
            return Ok(table);
        }
        // A GPU multiplies with the output layer many times a step, in one element type.
        let table = qlora_kernels::backend::host().dequantize(&*table, backend.dtype())?;
        Ok(Box::new(Plain(table.to_device(device)?)))
    }
}

impl Folder {
    fn projection(
        &self,
        layer: usize,
        module: TargetModule,
        model: &ModelConfig,
        backend: &dyn Backend,
    ) -> Result<Box<dyn FrozenWeight>> {
        let parent = if (module as usize) < TargetModule::GateProj as usize {
            "self_attn"
        } else {
            "mlp"
        };
        let name = format!("model.layers.{layer}.{parent}.{}.weight", module.name());
        if bnb::is_quantised(&self.shards, &name) {
            return Ok(Box::new(bnb::read(&self.shards, &name, backend.device())?));
        }
        if model.quantization == Quantization::Gguf {
            return Err(self
                .shards
                .fault(&name, "is not of a GGUF file; set model.quantization: nf4"));
        }
        let fault = |fault: &str| self.shards.fault(&name, &format!("{fault}; {ENLARGED}"));
        requantise(
            Box::new(Plain(self.shards.native(&name, &Device::Cpu)?)),
            model,
            backend,
            fault,
        )
    }
}

/// What helps against [`bnb::BEYOND`] where a model is loaded.
const ENLARGED: &str = "set model.double_quant: false or model.quantization: none";

/// Brings a weight into the form that the configuration asks for.
fn requantise(
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
    match bnb::quantise(&matrix, model, backend)? {
        Some(matrix) => Ok(Box::new(matrix)),
        None => Err(fault(bnb::BEYOND)),
    }
}
