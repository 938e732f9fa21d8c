//! GGUF files for llama.cpp and what is built on it: a model, merged with an adapter or not, and an
//! adapter alone.
//!
//! A base that is a GGUF file keeps its metadata and the blocks of every layer that the adapter
//! leaves as it is. A Hugging Face base gets metadata of its own ([`metadata`], [`tokenizer`]).
//! Rows of query and key projections change their order on the way (see [`rotary_row`]).

mod metadata;
mod pieces;
mod tokenizer;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use qlora_config::TargetModule;
use qlora_planner::ModelShape;

use self::writer::{Entry, Writer};
use super::merge::Merger;
use super::numbers::Outgoing;
use super::text::Trained;
use super::{Progress, Written};
use crate::lora::{Adapters, Site};
use crate::model::Part;
use crate::weights::gguf::{GgufFile, rotary_row};
use crate::weights::{Checkpoint, ModelFiles, Shards};
use crate::{Error, Result};

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
    match (checkpoint.gguf(), checkpoint.shards()) {
        (Some(file), _) => rewrite(checkpoint, file, out, element, trained, merger, progress),
        (None, Some(shards)) => {
            if let Some(name) = shards.quantised() {
                let fault = format!("holds quantised weights (`{name}`); give the 16-bit model");
                return Err(Error::Export {
                    path: checkpoint.files.path.clone(),
                    fault,
                });
            }
            from_folder(checkpoint, shards, out, element, trained, merger, progress)
        }
        (None, None) => Ok(()),
    }
}

/// The file again, with the layers that the adapter changes as `element`.
fn rewrite(
    checkpoint: &Checkpoint,
    file: &GgufFile,
    out: &Path,
    element: ElementType,
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
                let heads = heads_of(shape, site.module);
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

fn from_folder(
    checkpoint: &Checkpoint,
    shards: &Shards,
    out: &Path,
    element: ElementType,
    trained: Option<&Trained>,
    merger: &mut Merger<'_>,
    progress: Progress<'_>,
) -> Result<()> {
    let files = &checkpoint.files;
    let tokenizer = tokenizer::describe(files)?;
    merger.note(tokenizer.note);
    let mut metadata = [
        metadata::of(files, element.file_type())?,
        tokenizer.metadata,
    ]
    .concat();
    trained
        .into_iter()
        .for_each(|trained| trained.write_keys(&mut metadata));
    let divisors = metadata::rope_divisors(&files.shape);
    let parts = Part::all(&files.shape);
    let name_of = |part: &Part| part.hugging_face(&files.shape.form);
    let dtype_of = |dims: &[usize]| {
        if dims.len() > 1 {
            element.dtype()
        } else {
            GgmlDType::F32
        }
    };
    let mut entries = Vec::with_capacity(parts.len() + 1);
    for part in &parts {
        let dims = shards.shape(&name_of(part))?;
        entries.push(Entry {
            name: part.gguf(),
            dtype: dtype_of(&dims),
            dims,
        });
    }
    if let Some(divisors) = &divisors {
        entries.push(Entry {
            name: "rope_freqs.weight".into(),
            dims: vec![divisors.len()],
            dtype: GgmlDType::F32,
        });
    }
    let total = entries.len();
    let mut writer = Writer::create(out, &metadata, entries)?;
    for part in &parts {
        let name = &name_of(part);
        let mut tensor = shards.tensor(name, DType::F32, &Device::Cpu)?;
        if let Part::Weight(site) = part {
            tensor = reordered(
                &merger.linear(*site, &tensor)?,
                heads_of(&files.shape, site.module),
                Order::Gguf,
            )?;
        }
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
    if let Some(divisors) = divisors {
        let tensor = Tensor::new(divisors, &Device::Cpu)?;
        let bytes = writer.write(&plain(&tensor)?)?;
        progress(merger.wrote(bytes), total)?;
    }
    writer.finish(progress)
}

/// Writes `adapters` for a model of `shape`.
///
/// llama.cpp multiplies with alpha / rank, so alpha is the one that gives the scale of the
/// training.
pub(super) fn write_adapter(
    shape: &ModelShape,
    adapters: &Adapters,
    out: &Path,
    progress: Progress<'_>,
) -> Result<Written> {
    let config = adapters.config();
    let text = |key: &str, value: &str| (key.to_owned(), Value::String(value.to_owned()));
    let alpha = Value::F32((config.scale() * config.r as f64) as f32);
    let metadata = [
        text("general.architecture", metadata::ARCHITECTURE),
        text("general.type", "adapter"),
        text("adapter.type", "lora"),
        ("adapter.lora.alpha".to_owned(), alpha),
    ];
    let name = |site: &Site, which: &str| format!("{}.{which}", Part::Weight(*site).gguf());
    let mut tensors = Vec::with_capacity(2 * adapters.sites.len());
    for (site, factors) in adapters.sites.iter().zip(&adapters.factors) {
        tensors.push((name(site, "lora_a"), factors.a.clone()));
        let b = reordered(&factors.b, heads_of(shape, site.module), Order::Gguf)?;
        tensors.push((name(site, "lora_b"), b));
    }
    let entry = |(name, tensor): &(String, Tensor)| Entry {
        name: name.clone(),
        dims: tensor.dims().to_vec(),
        dtype: GgmlDType::F32,
    };
    let mut writer = Writer::create(out, &metadata, tensors.iter().map(entry).collect())?;
    let mut written = Written::default();
    for (_, tensor) in &tensors {
        written.bytes += writer.write(&plain(tensor)?)?;
        written.tensors += 1;
        progress(written.tensors, tensors.len())?;
    }
    writer.finish(progress)?;
    Ok(written)
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

/// Heads of a layer whose output is rotated; none of others.
fn heads_of(shape: &ModelShape, module: TargetModule) -> Option<usize> {
    match module {
        TargetModule::QProj => Some(shape.heads),
        TargetModule::KProj => Some(shape.kv_heads),
        _ => None,
    }
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
