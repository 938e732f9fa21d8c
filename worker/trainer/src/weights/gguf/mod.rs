//! A GGUF file: its weights, its shape, its tokenizer and its chat
//! template.

mod blocks;
mod header;
mod rope;
mod scan;
mod tokenizer;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Seek};
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::gguf_file::Content;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use qlora_data::Templates;
use qlora_planner::ModelShape;
use tokenizers::Tokenizer;

use super::agreement;
use super::finite::first_broken_in_blocks;
use super::plain;
use super::safetensors::BROKEN;
use crate::model::GgufForm;
use crate::{Error, Result};

pub(crate) use self::header::Header;
pub(crate) use self::rope::{
    DIVISORS, LONG, RopeTensors, SHORT, rotary_heads, rotary_row, yarn_growth,
};
pub(crate) use self::tokenizer::{CUTS, MERGED, TokenType, WHOLE};

/// What to do where the tokenizer of a file is of no use.
const FOLDER: &str = "use the Hugging Face folder of the model, with tokenizer.json";

/// An opened file.
pub(crate) struct GgufFile {
    path: PathBuf,
    content: Content,
}

impl GgufFile {
    /// Reads the header and checks that every tensor lies within the file.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        plain::check(path)?;
        let mut file = File::open(path).map_err(Error::io(path))?;
        let fault = |fault: String| Error::Model {
            path: path.into(),
            fault,
            help: "download the file again",
        };
        let length = file.metadata().map_err(Error::io(path))?.len();
        if let Some(unread) = scan::check(&file, length).map_err(fault)? {
            return Err(Error::Unsupported {
                path: path.into(),
                fault: unread.to_string(),
                help: blocks::SUPPORTED,
            });
        }
        file.rewind().map_err(Error::io(path))?;
        let content = Content::read(&mut BufReader::new(&file)).map_err(|e| {
            fault(format!(
                "it is no GGUF file, or its header is cut off ({e})"
            ))
        })?;
        let gguf = Self {
            path: path.into(),
            content,
        };
        let needed = gguf
            .end_of_tensors()?
            .saturating_add(gguf.content.tensor_data_offset);
        if needed > length {
            return Err(fault(format!(
                "it is cut off: its tensors need {needed} bytes, it has {length}"
            )));
        }
        gguf.header().whole(gguf.content.tensor_infos.len())?;
        Ok(gguf)
    }

    /// The byte, from the first tensor on, at which the last one ends.
    ///
    /// # Errors
    /// Two tensors overlap, or one is not made of whole blocks.
    fn end_of_tensors(&self) -> Result<u64> {
        let fault = |tensor: &str, fault: String| Error::Tensor {
            path: self.path.clone(),
            tensor: tensor.into(),
            fault,
        };
        let mut infos: Vec<_> = self.content.tensor_infos.iter().collect();
        infos.sort_by_key(|(name, info)| (info.offset, *name));
        let (mut end, mut before) = (0u64, "");
        for (name, info) in infos {
            let (dtype, block) = (info.ggml_dtype, info.ggml_dtype.block_size());
            if !info
                .shape
                .dims()
                .last()
                .is_some_and(|cols| cols.is_multiple_of(block))
            {
                return Err(fault(
                    name,
                    format!(
                        "{:?} is not made of whole {dtype:?} blocks",
                        info.shape.dims()
                    ),
                ));
            }
            if info.offset < end {
                return Err(fault(
                    name,
                    format!("overlaps `{before}`; download the file again"),
                ));
            }
            let bytes = (info.shape.elem_count() / block * dtype.type_size()) as u64;
            (end, before) = (info.offset.saturating_add(bytes), name);
        }
        Ok(end)
    }

    fn header(&self) -> Header<'_> {
        Header {
            path: &self.path,
            metadata: &self.content.metadata,
        }
    }

    /// The architecture's sizes, which the tensors agree with.
    pub(crate) fn shape(&self) -> Result<ModelShape> {
        let vocabulary = self
            .info("token_embd.weight")?
            .first()
            .copied()
            .unwrap_or_default();
        let form = self.form()?;
        let mut shape = ModelShape {
            tied_embeddings: !self.has("output.weight"),
            ..self.header().shape(vocabulary, self.rope_tensors(form)?)?
        };
        if form.biased {
            let decoder = &mut shape.form;
            decoder.qkv_bias = self.has("blk.0.attn_q.bias");
            decoder.o_bias = self.has("blk.0.attn_output.bias");
            decoder.mlp_bias = self.has("blk.0.ffn_gate.bias");
        }
        let tensors: BTreeMap<&str, &[usize]> = self
            .content
            .tensor_infos
            .iter()
            .map(|(name, info)| (name.as_str(), info.shape.dims()))
            .collect();
        agreement::check_gguf(&self.path, &tensors, &shape, &rope::tensors(form))?;
        Ok(shape)
    }

    /// What llama.cpp makes of the architecture that the file names.
    pub(crate) fn form(&self) -> Result<&'static GgufForm> {
        Ok(self.header().form()?.1)
    }

    fn rope_tensors(&self, form: &GgufForm) -> Result<RopeTensors> {
        let known = rope::tensors(form);
        let read = |name: &str| -> Result<Option<Vec<f32>>> {
            if !known.contains(&name) || !self.has(name) {
                return Ok(None);
            }
            let tensor = self.read(name, &Device::Cpu)?;
            let factors = tensor.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()?;
            Ok(Some(factors))
        };
        Ok(RopeTensors {
            divisors: read(DIVISORS)?,
            short: read(SHORT)?,
            long: read(LONG)?,
        })
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
        info.map(|i| i.shape.dims().to_vec())
            .ok_or_else(|| Error::Tensor {
                path: self.path.clone(),
                tensor: name.into(),
                fault: "is missing".into(),
            })
    }

    /// The tensor `name`, as its blocks are.
    pub(crate) fn read(&self, name: &str, device: &Device) -> Result<QTensor> {
        self.info(name)?;
        let mut file = File::open(&self.path).map_err(Error::io(&self.path))?;
        let tensor = self.content.tensor(&mut file, name, &Device::Cpu)?;
        let data = tensor.data()?;
        match first_broken_in_blocks(tensor.dtype(), &data) {
            None if device.is_cpu() => {
                drop(data);
                Ok(tensor)
            }
            None => rebuild(
                data.into_owned(),
                tensor.dtype(),
                tensor.shape().dims2()?,
                device,
            ),
            Some(value) => Err(Error::Tensor {
                path: self.path.clone(),
                tensor: name.into(),
                fault: format!("has {value}; {BROKEN}"),
            }),
        }
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
        tokenizer::read(&self.content).map_err(|fault| match fault {
            tokenizer::Fault::Broken(fault) => self.unusable_tokenizer(&fault),
            tokenizer::Fault::Unsupported(fault) => {
                let (path, fault) = (
                    self.path.clone(),
                    format!("its tokenizer cannot be used: {fault}"),
                );
                Error::Unsupported {
                    path,
                    fault,
                    help: FOLDER,
                }
            }
        })
    }

    fn unusable_tokenizer(&self, fault: &str) -> Error {
        Error::Model {
            path: self.path.clone(),
            fault: format!("its tokenizer cannot be used: {fault}"),
            help: FOLDER,
        }
    }

    /// The default template and those under names; none where there is none.
    pub(crate) fn chat_templates(&self) -> Result<Option<Templates>> {
        let mut keys: Vec<_> = self.content.metadata.iter().collect();
        keys.sort_by_key(|(key, _)| key.as_str());
        let mut found: Option<Templates> = None;
        for (key, value) in keys {
            let Some(name) = key
                .strip_prefix("tokenizer.chat_template")
                .filter(|name| *name != "s")
            else {
                continue;
            };
            let name = name.strip_prefix('.').unwrap_or("default");
            let text = value.to_string().map_err(|_| Error::Model {
                path: self.path.clone(),
                fault: format!("`{key}` is no text"),
                help: "download the file again",
            })?;
            found = Some(found.unwrap_or_default().with(Some(name), text.clone()));
        }
        Ok(found)
    }

    /// Id and text of the special token that `tokenizer.ggml.<which>_token_id` names.
    ///
    /// # Errors
    /// The key names no token.
    pub(crate) fn special_token(&self, which: &str) -> Result<Option<(u32, String)>> {
        tokenizer::special_token(&self.content, which)
            .map_err(|fault| self.unusable_tokenizer(&fault))
    }
}

fn rebuild(
    bytes: Vec<u8>,
    dtype: GgmlDType,
    shape: (usize, usize),
    device: &Device,
) -> Result<QTensor> {
    let storage = QStorage::from_data(Cow::Owned(bytes), device, dtype)?;
    Ok(QTensor::new(storage, shape)?)
}
