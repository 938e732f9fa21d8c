//! One way in for every kind of checkpoint: shape, tokenizer, template, and weights by their
//! Hugging Face names.

mod tensors;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use qlora_config::ModelConfig;
use qlora_data::{ModelText, SpecialTokens};
use qlora_planner::{ModelShape, WeightFormat, unmet_quantization};
use sha2::{Digest, Sha256};

use super::agreement;
use super::files::{ModelFiles, end_ids, hub_name, read_json};
use super::gguf::GgufFile;
use super::random::RandomWeights;
use super::safetensors::Shards;
use super::text_files;
use crate::model::{ConfigFault, GgufForm, Part, gguf_form, shape_from_json};
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
    form: &'static GgufForm,
}

/// A GGUF file.
struct Ggml {
    file: GgufFile,
    form: &'static GgufForm,
}

/// An opened checkpoint.
pub struct Checkpoint {
    pub files: ModelFiles,
    source: Source,
}

/// The shape of the model in a folder or a `.gguf` file; of its weights only a head beside tied
/// embeddings is looked at, where it is there.
///
/// # Errors
/// See [`Checkpoint::open`].
pub fn shape_of(path: &Path) -> Result<ModelShape> {
    if !path.is_dir() {
        return GgufFile::open(path)?.shape();
    }
    let mut shape = shape_of_config(path, &read_json(&path.join("config.json"))?)?;
    if let Ok(shards) = Shards::open(path)
        && agreement::has_own_head(&shards, &shape)?
    {
        shape.tied_embeddings = false;
    }
    Ok(shape)
}

/// How the model in a folder or a `.gguf` file holds its weights; a folder whose weights cannot be
/// opened passes for one of plain weights.
pub fn format_of(path: &Path) -> WeightFormat {
    if path.is_dir() {
        Shards::open(path).map_or(WeightFormat::Folder, |shards| shards.format())
    } else {
        WeightFormat::Gguf
    }
}

/// The shape that the `config.json` of `folder` gives.
fn shape_of_config(folder: &Path, config: &serde_json::Value) -> Result<ModelShape> {
    shape_from_json(config).map_err(|fault| of_config(folder, fault))
}

/// `fault` of the `config.json` of `folder`.
fn of_config(folder: &Path, fault: ConfigFault) -> Error {
    let path = folder.join("config.json");
    match fault {
        ConfigFault::Broken(fault) => Error::Model {
            path,
            fault,
            help: "correct it, or download the file again",
        },
        ConfigFault::Unsupported(fault) => Error::Unsupported {
            path,
            fault,
            help: "docs/reference/models.md lists the architectures and settings that are read",
        },
    }
}

/// Refuses a `quantization_config` over weights that are not quantized: which of both is meant
/// cannot be known.
fn says_what_is_there(folder: &Path, config: &serde_json::Value, shards: &Shards) -> Result<()> {
    if config["quantization_config"].is_null() || shards.format() == WeightFormat::Nf4 {
        return Ok(());
    }
    Err(Error::Model {
        path: folder.join("config.json"),
        fault: "`quantization_config` says that bitsandbytes has quantized the weights, and the files hold them in 16 or 32 bits".into(),
        help: "remove the key if these are the whole weights, or take the files that it belongs to",
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
        let (bos, eos) = (file.special_token("bos")?, file.special_token("eos")?);
        let turns = [file.special_token("eot")?, file.special_token("eom")?];
        let text = |token: &Option<(u32, String)>| {
            token
                .as_ref()
                .map_or_else(String::new, |(_, text)| text.clone())
        };
        let files = ModelFiles {
            path: path.into(),
            shape: file.shape()?,
            tokenizer: Some(file.tokenizer()?),
            template: file.chat_templates()?,
            special: SpecialTokens {
                bos: text(&bos),
                eos: text(&eos),
            },
            end_ids: eos
                .iter()
                .chain(turns.iter().flatten())
                .map(|(id, _)| *id)
                .collect(),
            hub_name: None,
            notes: Vec::new(),
        };
        Ok(Self {
            files,
            source: Source::Gguf(Box::new(Ggml {
                form: file.form()?,
                file,
            })),
        })
    }

    /// The same for weights that are held as `model` asks.
    ///
    /// # Errors
    /// See [`Self::open`]; or the files do not hold what `model.quantization` asks for.
    pub fn open_as(path: &Path, model: &ModelConfig) -> Result<Self> {
        let checkpoint = Self::open(path)?;
        let format = match &checkpoint.source {
            Source::HuggingFace(folder) => folder.shards.format(),
            Source::Gguf(_) => WeightFormat::Gguf,
            Source::Random(_) => WeightFormat::Folder,
        };
        match unmet_quantization(format, model) {
            Some(misfit) => Err(Error::Misfit(misfit)),
            None => Ok(checkpoint),
        }
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
        Self {
            files,
            source: Source::Random(RandomWeights { seed }),
        }
    }

    fn open_folder(path: &Path) -> Result<Self> {
        let config = read_json(&path.join("config.json"))?;
        let mut shape = shape_of_config(path, &config)?;
        let form = gguf_form(&config).map_err(|fault| of_config(path, fault))?;
        let shards = Shards::open(path)?;
        let mut notes = Vec::new();
        if agreement::has_own_head(&shards, &shape)? {
            shape.tied_embeddings = false;
            notes.push(agreement::OWN_HEAD.to_owned());
        }
        agreement::check(&shards, &shape)?;
        says_what_is_there(path, &config, &shards)?;
        let mut text = ModelText::open(path).map_err(|e| Error::Model {
            path: e.path,
            fault: e.fault,
            help: "download the file again",
        })?;
        if let Some(tokenizer) = &mut text.tokenizer {
            notes.extend(text_files::agree(path, tokenizer)?);
        }
        let files = ModelFiles {
            path: path.into(),
            end_ids: end_ids(path, &config, shape.vocabulary)?,
            shape,
            tokenizer: text.tokenizer,
            template: text.template,
            special: text.special,
            hub_name: hub_name(&config),
            notes,
        };
        Ok(Self {
            files,
            source: Source::HuggingFace(Box::new(Folder { shards, form })),
        })
    }

    /// The files of a Hugging Face folder; none of a GGUF file.
    pub(crate) fn shards(&self) -> Option<&Shards> {
        match &self.source {
            Source::HuggingFace(folder) => Some(&folder.shards),
            Source::Gguf(_) | Source::Random(_) => None,
        }
    }

    /// What llama.cpp makes of the architecture; none of random weights.
    pub(crate) fn gguf_form(&self) -> Option<&'static GgufForm> {
        match &self.source {
            Source::HuggingFace(folder) => Some(folder.form),
            Source::Gguf(ggml) => Some(ggml.form),
            Source::Random(_) => None,
        }
    }

    /// Tells models apart, and finds a model again in another format: a hash of the weights of its
    /// norms, which no format quantizes.
    pub fn fingerprint(&self) -> Result<String> {
        let cpu = &Device::Cpu;
        let mut hash = Sha256::new();
        let mut add = |norm: Tensor| -> Result<()> {
            norm.to_vec1::<f32>()?
                .iter()
                .for_each(|weight| hash.update(weight.to_le_bytes()));
            Ok(())
        };
        for part in Part::all(&self.files.shape) {
            if matches!(part, Part::Norm { .. } | Part::FinalNorm) {
                let norm = self.vector(part, DType::F32, cpu)?;
                // GGUF files hold the whole factor, which rounds the weight.
                let unit = f64::from(u8::from(self.files.shape.form.unit_offset));
                add((norm + unit)?)?;
            }
        }
        Ok(hex::encode(hash.finalize()))
    }

    /// The file, where it is one of GGUF.
    pub(crate) fn gguf(&self) -> Option<&GgufFile> {
        match &self.source {
            Source::HuggingFace(_) | Source::Random(_) => None,
            Source::Gguf(ggml) => Some(&ggml.file),
        }
    }
}
