//! GGUF files for llama.cpp and what is built on it: a model, merged with an adapter or not, and an
//! adapter alone.
//!
//! A base that is a GGUF file keeps its metadata and the blocks of every layer that the adapter
//! leaves as it is. A Hugging Face base gets metadata of its own ([`metadata`], [`tokenizer`]).
//! Rows of query and key projections change their order on the way where llama.cpp rotates
//! neighboring elements (see [`rotary_row`]), and norms of 1 + w are held as that sum. What
//! llama.cpp would compute otherwise is refused before anything is written ([`agreement`]).

mod adapter;
mod agreement;
mod metadata;
mod pieces;
mod rotary;
mod tokenizer;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use qlora_planner::ModelShape;

use self::writer::{Entry, Writer};
use super::Progress;
use super::merge::Merger;
use super::numbers::Outgoing;
use super::text::Trained;
use crate::lora::Site;
use crate::model::{GgufForm, Part};
use crate::weights::gguf::{GgufFile, rotary_heads, rotary_row};
use crate::weights::{Checkpoint, ModelFiles, Shards};
use crate::{Error, Result};

pub(super) use self::adapter::write as write_adapter;

/// How matrices are held in a file; vectors are always `f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementType {
    F32,
    F16,
    Bf16,
    /// Blocks of 32 with a scale each: half of `f16`.
    Q8_0,
}

impl ElementType {
    fn dtype(self) -> GgmlDType {
        match self {
            Self::F32 => GgmlDType::F32,
            Self::F16 => GgmlDType::F16,
            Self::Bf16 => GgmlDType::BF16,
            Self::Q8_0 => GgmlDType::Q8_0,
        }
    }

    /// The number of llama.cpp's `llama_ftype`.
    fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 7,
            Self::Bf16 => 32,
        }
    }
}

/// Writes `checkpoint` as `merger` changes it.
pub(super) fn write_model(
    checkpoint: &Checkpoint,
    out: &Path,
    element: ElementType,
    trained: Option<&Trained>,
    merger: &mut Merger<'_>,
    progress: Progress<'_>,
) -> Result<()> {
    let Some(form) = checkpoint.gguf_form() else {
        return Err(no_files(checkpoint));
    };
    merger.note(unused_window(&checkpoint.files.shape));
    let target = Target { form, out, element };
    match (checkpoint.gguf(), checkpoint.shards()) {
        (Some(file), _) => rewrite(checkpoint, file, &target, trained, merger, progress),
        (None, Some(shards)) => {
            if let Some(name) = shards.quantized() {
                let fault = format!("holds quantized weights (`{name}`); give the 16-bit model");
                return Err(Error::Export {
                    path: checkpoint.files.path.clone(),
                    fault,
                });
            }
            from_folder(checkpoint, shards, &target, trained, merger, progress)
        }
        (None, None) => Err(no_files(checkpoint)),
    }
}

/// The file that is to be written.
struct Target<'a> {
    form: &'static GgufForm,
    out: &'a Path,
    element: ElementType,
}

/// What a person should hear of a window of all blocks: llama.cpp's graphs of such models have
/// none.
fn unused_window(shape: &ModelShape) -> Option<String> {
    let window = shape
        .sliding_window
        .filter(|&window| window < shape.max_positions)?;
    Some(format!(
        "llama.cpp computes no window for this model: beyond {window} tokens (`sliding_window`) its answers differ from those of the training"
    ))
}

/// The file again, with the layers that the adapter changes as `element`.
fn rewrite(
    checkpoint: &Checkpoint,
    file: &GgufFile,
    &Target { form, out, element }: &Target<'_>,
    trained: Option<&Trained>,
    merger: &mut Merger<'_>,
    progress: Progress<'_>,
) -> Result<()> {
    let (content, ModelFiles { shape, path, .. }) = (file.content(), &checkpoint.files);
    let mut infos: Vec<_> = content.tensor_infos.iter().collect();
    infos.sort_by_key(|(_, info)| info.offset);
    let sites: BTreeMap<String, Site> = Part::all(shape)
        .into_iter()
        .filter_map(|part| match part {
            Part::Weight(site) => Some((part.gguf(), site)),
            _ => None,
        })
        .collect();
    let adapted = |name: &str| {
        let site = sites.get(name).copied();
        site.filter(|&site| merger.adapts(site))
    };
    let plan: Vec<_> = infos
        .iter()
        .map(|(name, info)| (*name, *info, adapted(name)))
        .collect();
    let entries = plan.iter().map(|(name, info, site)| Entry {
        name: (*name).clone(),
        dims: info.shape.dims().to_vec(),
        dtype: if site.is_some() {
            element.dtype()
        } else {
            info.ggml_dtype
        },
    });
    let kept = content
        .metadata
        .iter()
        .filter(|(key, _)| !key.starts_with("split."));
    let mut metadata: Vec<(String, Value)> = kept.map(|(k, v)| (k.clone(), v.clone())).collect();
    trained
        .into_iter()
        .for_each(|trained| trained.write_keys(&mut metadata));
    metadata.sort_by(|a, b| a.0.cmp(&b.0));
    let mut writer = Writer::create(out, &metadata, entries.collect())?;
    for (name, _, site) in &plan {
        let blocks = file.read(name, &Device::Cpu)?;
        let bytes = match site {
            None => writer.write(&blocks.data()?)?,
            Some(site) => {
                let heads = rotary_heads(form, shape, site.module);
                let base = reordered(&blocks.dequantize(&Device::Cpu)?, heads, Order::HuggingFace)?;
                let merged = reordered(&merger.onto(*site, base)?, heads, Order::Gguf)?;
                let encoded = Outgoing {
                    path,
                    name,
                    tensor: &merged,
                }
                .blocks(element.dtype())?;
                merger.note(encoded.note);
                writer.write(&encoded.bytes)?
            }
        };
        progress(merger.wrote(bytes), plan.len())?;
    }
    writer.finish(progress)
}

/// Weights that were made here are in no file.
fn no_files(checkpoint: &Checkpoint) -> Error {
    Error::Export {
        path: checkpoint.files.path.clone(),
        fault: "are in no file; name a model's folder or GGUF file".into(),
    }
}

fn from_folder(
    checkpoint: &Checkpoint,
    shards: &Shards,
    &Target { form, out, element }: &Target<'_>,
    trained: Option<&Trained>,
    merger: &mut Merger<'_>,
    progress: Progress<'_>,
) -> Result<()> {
    let files = &checkpoint.files;
    let tokenizer = tokenizer::describe(files)?;
    merger.note(tokenizer.note);
    let mut metadata = [
        metadata::of(files, form, element.file_type())?,
        tokenizer.metadata,
    ]
    .concat();
    trained
        .into_iter()
        .for_each(|trained| trained.write_keys(&mut metadata));
    let rotary = rotary::named(rotary::tensors(&files.shape, form));
    let parts = Part::all(&files.shape);
    let name_of = |part: &Part| part.hugging_face(&files.shape.form);
    let dtype_of = |dims: &[usize]| {
        if dims.len() > 1 {
            element.dtype()
        } else {
            GgmlDType::F32
        }
    };
    let mut entries = Vec::with_capacity(parts.len() + rotary.len());
    for part in &parts {
        let dims = shards.shape(&name_of(part))?;
        entries.push(Entry {
            name: part.gguf(),
            dtype: dtype_of(&dims),
            dims,
        });
    }
    entries.extend(rotary.iter().map(|(name, factors)| Entry {
        name: (*name).to_owned(),
        dims: vec![factors.len()],
        dtype: GgmlDType::F32,
    }));
    let total = entries.len();
    let mut writer = Writer::create(out, &metadata, entries)?;
    for part in &parts {
        let name = &name_of(part);
        let tensor = shards.tensor(name, DType::F32, &Device::Cpu)?;
        let tensor = outgoing(*part, tensor, &files.shape, form, merger)?;
        let dtype = dtype_of(tensor.dims());
        let encoded = Outgoing {
            path: &files.path,
            name,
            tensor: &tensor,
        }
        .blocks(dtype)?;
        merger.note(encoded.note);
        let bytes = writer.write(&encoded.bytes)?;
        progress(merger.wrote(bytes), total)?;
    }
    for (_, factors) in rotary {
        let tensor = Tensor::new(factors, &Device::Cpu)?;
        let bytes = writer.write(&plain(&tensor)?)?;
        progress(merger.wrote(bytes), total)?;
    }
    writer.finish(progress)
}

/// The tensor `part` of a folder as a file of `form` holds it.
fn outgoing(
    part: Part,
    tensor: Tensor,
    shape: &ModelShape,
    form: &GgufForm,
    merger: &mut Merger<'_>,
) -> Result<Tensor> {
    let heads = |site: Site| rotary_heads(form, shape, site.module);
    match part {
        Part::Weight(site) => reordered(&merger.linear(site, &tensor)?, heads(site), Order::Gguf),
        Part::Bias(site) => reordered(&tensor, heads(site), Order::Gguf),
        Part::Norm { .. } | Part::FinalNorm if shape.form.unit_offset => Ok((tensor + 1.0)?),
        _ => Ok(tensor),
    }
}

/// `tensor` as it is, in `f32`.
fn plain(tensor: &Tensor) -> Result<Vec<u8>> {
    Ok(QTensor::quantize(&tensor.contiguous()?, GgmlDType::F32)?
        .data()?
        .into_owned())
}

/// Whose order of rows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    HuggingFace,
    Gguf,
}

/// `matrix` [rows, ...] with its rows brought into `order` from the other one.
fn reordered(matrix: &Tensor, heads: Option<usize>, order: Order) -> Result<Tensor> {
    let Some(heads) = heads else {
        return Ok(matrix.clone());
    };
    let rows = matrix.dim(0)?;
    let mut places = vec![0u32; rows];
    for row in 0..rows {
        let place = rotary_row(row, rows, heads);
        match order {
            Order::HuggingFace => places[row] = place as u32,
            Order::Gguf => places[place] = row as u32,
        }
    }
    Ok(matrix.index_select(&Tensor::new(places, matrix.device())?, 0)?)
}
