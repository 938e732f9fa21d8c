//! A GGUF file of the Llama architecture: its weights, its shape, its tokenizer and its chat template.

use std::borrow::Cow;
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use qlora_planner::{ModelShape, RopeScaling};
use tokenizers::Tokenizer;

use crate::{Error, Result};

/// An opened file.
pub(crate) struct GgufFile {
    path: PathBuf,
    content: Content,
}

impl GgufFile {
    /// Reads the header and checks that every tensor lies within the file.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io(path))?;
        let fault = |fault: String| Error::Model { path: path.into(), fault, help: "download the file again" };
        let content = Content::read(&mut file)
            .map_err(|e| fault(format!("it is no GGUF file, or its header is cut off ({e})")))?;
        let length = file.metadata().map_err(Error::io(path))?.len();
        let gguf = Self { path: path.into(), content };
        let needed = gguf.content.tensor_infos.values().map(|info| {
            let blocks = info.shape.elem_count() / info.ggml_dtype.block_size();
            gguf.content.tensor_data_offset + info.offset + (blocks * info.ggml_dtype.type_size()) as u64
        });
        let needed = needed.max().unwrap_or(0);
        if needed > length {
            return Err(fault(format!("it is cut off: its tensors need {needed} bytes, it has {length}")));
        }
        Ok(gguf)
    }

    fn value(&self, key: &str) -> Result<&Value> {
        self.content.metadata.get(key).ok_or_else(|| Error::Model {
            path: self.path.clone(),
            fault: format!("the metadata lack `{key}`"),
            help: "use a file made by a current convert_hf_to_gguf",
        })
    }

    fn number(&self, key: &str) -> Result<f64> {
        let value = self.value(key)?;
        let float = value.to_f32().map(f64::from).or_else(|_| value.to_f64());
        Ok(float.or_else(|_| value.to_u64().map(|v| v as f64)).or_else(|_| value.to_u32().map(f64::from))?)
    }

    /// The architecture's sizes.
    pub(crate) fn shape(&self) -> Result<ModelShape> {
        let arch = self.value("general.architecture")?.to_string()?.clone();
        if arch != "llama" && arch != "mistral" {
            return Err(Error::Model {
                path: self.path.clone(),
                fault: format!("its architecture is `{arch}`"),
                help: "Llama and Mistral can be trained",
            });
        }
        let size = |key: &str| self.number(&format!("{arch}.{key}")).map(|v| v as usize);
        let (hidden, heads) = (size("embedding_length")?, size("attention.head_count")?);
        let embedding = self.info("token_embd.weight")?;
        Ok(ModelShape {
            hidden,
            layers: size("block_count")?,
            heads,
            kv_heads: size("attention.head_count_kv").unwrap_or(heads),
            head_dim: size("attention.key_length").unwrap_or(hidden / heads),
            ffn: size("feed_forward_length")?,
            vocabulary: embedding[0],
            tied_embeddings: !self.has("output.weight"),
            norm_epsilon: self.number(&format!("{arch}.attention.layer_norm_rms_epsilon"))?,
            rope_theta: self.number(&format!("{arch}.rope.freq_base")).unwrap_or(10_000.0),
            rope_scaling: self.rope_factors()?,
            sliding_window: size("attention.sliding_window").ok().filter(|&w| w > 0),
            max_positions: size("context_length")?,
        })
    }

    /// Llama 3.1's scaling is stored as a divisor for each frequency.
    fn rope_factors(&self) -> Result<Option<RopeScaling>> {
        if !self.has("rope_freqs.weight") {
            return Ok(None);
        }
        let factors = self.read("rope_freqs.weight", &Device::Cpu)?.dequantize(&Device::Cpu)?;
        Ok(Some(RopeScaling::Divisors(factors.flatten_all()?.to_vec1()?)))
    }

    /// Everything that the header says.
    pub(crate) fn content(&self) -> &Content {
        &self.content
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    fn info(&self, name: &str) -> Result<Vec<usize>> {
        let info = self.content.tensor_infos.get(name);
        info.map(|i| i.shape.dims().to_vec()).ok_or_else(|| Error::Tensor {
            path: self.path.clone(),
            tensor: name.into(),
            fault: "is missing".into(),
        })
    }

    /// The tensor `name`, as its blocks are.
    pub(crate) fn read(&self, name: &str, device: &Device) -> Result<QTensor> {
        self.info(name)?;
        let mut file = File::open(&self.path).map_err(Error::io(&self.path))?;
        Ok(self.content.tensor(&mut file, name, device)?)
    }

    /// A query or key projection with its rows in the order of Hugging Face checkpoints.
    ///
    /// Blocks run along rows, so whole rows move and no value changes; see [`rotary_row`].
    pub(crate) fn read_rotary(&self, name: &str, heads: usize, device: &Device) -> Result<QTensor> {
        let tensor = self.read(name, &Device::Cpu)?;
        let (rows, cols) = tensor.shape().dims2()?;
        let data = tensor.data()?;
        let row_bytes = data.len() / rows;
        debug_assert_eq!(cols % tensor.dtype().block_size(), 0);
        let mut ordered = Vec::with_capacity(data.len());
        for row in 0..rows {
            let from = rotary_row(row, rows, heads);
            ordered.extend_from_slice(&data[from * row_bytes..(from + 1) * row_bytes]);
        }
        rebuild(ordered, tensor.dtype(), (rows, cols), device)
    }

    pub(crate) fn tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::from_gguf(&self.content).map_err(|e| Error::Model {
            path: self.path.clone(),
            fault: format!("its tokenizer cannot be used: {e}"),
            help: "use the Hugging Face folder of the model, with tokenizer.json",
        })
    }

    pub(crate) fn chat_template(&self) -> Option<String> {
        self.content.metadata.get("tokenizer.chat_template")?.to_string().ok().cloned()
    }

    /// Text of the special token whose id stands under `tokenizer.ggml.<which>_token_id`.
    pub(crate) fn special_token(&self, which: &str) -> Option<(u32, String)> {
        let id = self.content.metadata.get(&format!("tokenizer.ggml.{which}_token_id"))?.to_u32().ok()?;
        let tokens = self.content.metadata.get("tokenizer.ggml.tokens")?.to_vec().ok()?;
        Some((id, tokens.get(id as usize)?.to_string().ok()?.clone()))
    }
}

/// Where row `row` of a query or key projection of `rows` rows stands in a GGUF file: llama.cpp stores the two halves
/// of each head interleaved, because its rotary embedding turns neighbouring elements.
pub(crate) fn rotary_row(row: usize, rows: usize, heads: usize) -> usize {
    let head = rows / heads;
    let (h, i) = (row / head, row % head);
    let (half, pair) = (i / (head / 2), i % (head / 2));
    h * head + 2 * pair + half
}

fn rebuild(bytes: Vec<u8>, dtype: GgmlDType, shape: (usize, usize), device: &Device) -> Result<QTensor> {
    let storage = QStorage::from_data(Cow::Owned(bytes), device, dtype)?;
    Ok(QTensor::new(storage, shape)?)
}
