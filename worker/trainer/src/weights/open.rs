//! One way in for every kind of checkpoint: shape, tokenizer, template, and weights by their Hugging Face names.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use qlora_config::{ModelConfig, Quantization, TargetModule};
use qlora_data::{ModelText, SpecialTokens};
use qlora_planner::ModelShape;
use sha2::{Digest, Sha256};

use super::agreement;
use super::files::{ModelFiles, end_ids, hub_name, read_json};
use super::gguf::{GgufFile, gguf_name};
use super::random::RandomWeights;
use super::safetensors::Shards;
use super::{FrozenWeight, Gguf, Plain, bnb};
use crate::lora::Site;
use crate::model::{ConfigFault, shape_from_json};
use crate::{Error, Result};

/// Where the weights come from.
enum Source {
    HuggingFace(Box<Folder>),
    Gguf(Box<Ggml>),
    Random(RandomWeights),
}

/// A Hugging Face folder.
struct Folder {
    shards: Shards,
}

/// A GGUF file.
struct Ggml {
    file: GgufFile,
}

/// An opened checkpoint.
pub struct Checkpoint {
    pub files: ModelFiles,
    source: Source,
}

/// The shape of the model in a folder or a `.gguf` file; its weights are not read.
///
/// # Errors
/// See [`Checkpoint::open`].
pub fn shape_of(path: &Path) -> Result<ModelShape> {
    if path.is_dir() {
        return shape_of_config(path, &read_json(&path.join("config.json"))?);
    }
    GgufFile::open(path)?.shape()
}

/// The shape that the `config.json` of `folder` gives.
fn shape_of_config(folder: &Path, config: &serde_json::Value) -> Result<ModelShape> {
    let path = folder.join("config.json");
    shape_from_json(config).map_err(|fault| match fault {
        ConfigFault::Broken(fault) => Error::Model { path, fault, help: "correct it, or download the file again" },
        ConfigFault::Unsupported(fault) => Error::Unsupported {
            path,
            fault,
            help: "Llama and Mistral decoders as Hugging Face transformers defines them can be used",
        },
    })
}

impl Checkpoint {
    /// Opens a Hugging Face folder or a `.gguf` file.
    ///
    /// # Errors
    /// It does not exist, holds no weights, is cut off, or is of another architecture.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Self::open_folder(path);
        }
        let file = GgufFile::open(path)?;
        let (bos, eos) = (file.special_token("bos"), file.special_token("eos"));
        let text = |token: &Option<(u32, String)>| token.as_ref().map_or_else(String::new, |(_, text)| text.clone());
        let files = ModelFiles {
            path: path.into(),
            shape: file.shape()?,
            tokenizer: Some(file.tokenizer()?),
            template: file.chat_templates()?,
            special: SpecialTokens { bos: text(&bos), eos: text(&eos) },
            end_ids: eos.iter().map(|(id, _)| *id).collect(),
            hub_name: None,
            notes: Vec::new(),
        };
        Ok(Self { files, source: Source::Gguf(Box::new(Ggml { file })) })
    }

    /// Seeded weights of `shape`, without tokenizer or template: for measuring only.
    pub fn random(shape: ModelShape, seed: u64) -> Self {
        let files = ModelFiles {
            path: "random weights".into(),
            shape,
            tokenizer: None,
            template: None,
            special: SpecialTokens::default(),
            end_ids: Vec::new(),
            hub_name: None,
            notes: Vec::new(),
        };
        Self { files, source: Source::Random(RandomWeights { seed }) }
    }

    fn open_folder(path: &Path) -> Result<Self> {
        let config = read_json(&path.join("config.json"))?;
        let shape = shape_of_config(path, &config)?;
        let shards = Shards::open(path)?;
        let notes = agreement::check(&shards, &shape)?;
        let text = ModelText::open(path).map_err(|e| Error::Model {
            path: e.path,
            fault: e.fault,
            help: "download the file again",
        })?;
        let files = ModelFiles {
            path: path.into(),
            shape,
            tokenizer: text.tokenizer,
            template: text.template,
            special: text.special,
            end_ids: end_ids(path, &config)?,
            hub_name: hub_name(&config),
            notes,
        };
        Ok(Self { files, source: Source::HuggingFace(Box::new(Folder { shards })) })
    }

    /// The files of a Hugging Face folder; none of a GGUF file.
    pub(crate) fn shards(&self) -> Option<&Shards> {
        match &self.source {
            Source::HuggingFace(folder) => Some(&folder.shards),
            Source::Gguf(_) | Source::Random(_) => None,
        }
    }

    /// Tells models apart, and finds a model again in another format: a hash of the weights of its norms, which no
    /// format quantises.
    pub fn fingerprint(&self) -> Result<String> {
        let cpu = &Device::Cpu;
        let mut hash = Sha256::new();
        let mut add = |norm: Tensor| -> Result<()> {
            norm.to_vec1::<f32>()?.iter().for_each(|weight| hash.update(weight.to_le_bytes()));
            Ok(())
        };
        for layer in 0..self.files.shape.layers {
            let (first, second) = self.norms(layer, DType::F32, cpu)?;
            add(first)?;
            add(second)?;
        }
        add(self.final_norm(DType::F32, cpu)?)?;
        Ok(hex::encode(hash.finalize()))
    }

    /// The file, where it is one of GGUF.
    pub(crate) fn gguf(&self) -> Option<&GgufFile> {
        match &self.source {
            Source::HuggingFace(_) | Source::Random(_) => None,
            Source::Gguf(ggml) => Some(&ggml.file),
        }
    }

    /// The linear layer `module` of block `layer`, held as `model` asks.
    pub fn projection(
        &self,
        layer: usize,
        module: TargetModule,
        model: &ModelConfig,
        device: &Device,
    ) -> Result<Box<dyn FrozenWeight>> {
        match &self.source {
            Source::HuggingFace(folder) => folder.projection(layer, module, model, device),
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
                let weight = self.gguf_projection(ggml, layer, module, if stays { device } else { &Device::Cpu })?;
                let fault =
                    |fault: &str| Error::Model { path: self.files.path.clone(), fault: fault.into(), help: ENLARGED };
                if stays { Ok(weight) } else { requantise(weight, model, device, fault) }
            }
            Source::Random(weights) => {
                let weight = weights.projection(layer, module, self.files.shape.projection(module))?;
                let fault =
                    |fault: &str| Error::Model { path: self.files.path.clone(), fault: fault.into(), help: ENLARGED };
                requantise(Box::new(Plain(weight)), model, device, fault)
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
            Source::HuggingFace(_) => {
                ["input_layernorm", "post_attention_layernorm"].map(|n| format!("model.layers.{layer}.{n}.weight"))
            }
            Source::Gguf(_) | Source::Random(_) => ["attn_norm", "ffn_norm"].map(|n| format!("blk.{layer}.{n}.weight")),
        };
        Ok((self.vector(&names[0], dtype, device)?, self.vector(&names[1], dtype, device)?))
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
                let vector = ggml.file.read(name, &Device::Cpu)?.dequantize(&Device::Cpu)?;
                Ok(vector.to_dtype(dtype)?.to_device(device)?)
            }
            Source::Random(_) => Ok(Tensor::ones(self.files.shape.hidden, dtype, &Device::Cpu)?.to_device(device)?),
        }
    }

    /// The embedding [V, D].
    pub fn embedding(&self, device: &Device) -> Result<Box<dyn FrozenWeight>> {
        self.table("model.embed_tokens.weight", "token_embd.weight", device)
    }

    /// The output layer [V, D], or none where the embedding serves as such.
    pub fn head(&self, device: &Device) -> Result<Option<Box<dyn FrozenWeight>>> {
        if self.files.shape.tied_embeddings {
            return Ok(None);
        }
        self.table("lm_head.weight", "output.weight", device).map(Some)
    }

    fn table(&self, folder_name: &str, gguf_name: &str, device: &Device) -> Result<Box<dyn FrozenWeight>> {
        let table: Box<dyn FrozenWeight> = match &self.source {
            Source::HuggingFace(folder) => Box::new(Plain(folder.shards.native(folder_name, &Device::Cpu)?)),
            Source::Gguf(ggml) => Box::new(Gguf(ggml.file.read(gguf_name, &Device::Cpu)?)),
            Source::Random(weights) => {
                let shape = (self.files.shape.vocabulary, self.files.shape.hidden);
                let is_head = gguf_name == "output.weight";
                Box::new(Plain(if is_head { weights.head(shape)? } else { weights.embedding(shape)? }))
            }
        };
        if device.is_cpu() {
            return Ok(table);
        }
        // A GPU multiplies with the output layer many times a step, in one element type.
        Ok(Box::new(Plain(table.written_out(crate::device::compute_dtype(device))?.to_device(device)?)))
    }
}

impl Folder {
    fn projection(
        &self,
        layer: usize,
        module: TargetModule,
        model: &ModelConfig,
        device: &Device,
    ) -> Result<Box<dyn FrozenWeight>> {
        let parent = if (module as usize) < TargetModule::GateProj as usize { "self_attn" } else { "mlp" };
        let name = format!("model.layers.{layer}.{parent}.{}.weight", module.name());
        if bnb::is_quantised(&self.shards, &name) {
            return Ok(Box::new(bnb::read(&self.shards, &name, device)?));
        }
        if model.quantization == Quantization::Gguf {
            return Err(self.shards.fault(&name, "is not of a GGUF file; set model.quantization: nf4"));
        }
        let fault = |fault: &str| self.shards.fault(&name, &format!("{fault}; {ENLARGED}"));
        requantise(Box::new(Plain(self.shards.native(&name, &Device::Cpu)?)), model, device, fault)
    }
}

/// What helps against [`bnb::BEYOND`] where a model is loaded.
const ENLARGED: &str = "set model.double_quant: false or model.quantization: none";

/// Brings a weight into the form that the configuration asks for.
fn requantise(
    weight: Box<dyn FrozenWeight>,
    model: &ModelConfig,
    device: &Device,
    fault: impl FnOnce(&str) -> Error,
) -> Result<Box<dyn FrozenWeight>> {
    let matrix = match model.quantization {
        Quantization::Gguf => return Ok(weight),
        Quantization::None => {
            return Ok(Box::new(Plain(weight.written_out(crate::device::compute_dtype(device))?.to_device(device)?)));
        }
        Quantization::Nf4 | Quantization::Auto => weight.as_stored()?,
    };
    match bnb::quantise(&matrix, model, device)? {
        Some(matrix) => Ok(Box::new(matrix)),
        None => Err(fault(bnb::BEYOND)),
    }
}
