//! A model, merged with an adapter or not: a base that is a file is copied but for the layers that
//! the adapter changes, one that is a folder is written anew.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;
use candle_core::{DType, Device, Tensor};
use qlora_planner::ModelShape;

use super::agreement::{no_files, unused_window};
use super::elements::{ElementType, plain};
use super::rows::{Order, reordered};
use super::writer::{Entry, Writer};
use super::{metadata, rotary, tokenizer};
use crate::export::merge::Merger;
use crate::export::outgoing::Outgoing;
use crate::export::report::Progress;
use crate::export::text::Trained;
use crate::lora::Site;
use crate::model::{GgufForm, Part};
use crate::weights::gguf::{GgufFile, rotary_heads};
use crate::weights::{Checkpoint, ModelFiles, Shards};
use crate::{Error, Result};

/// Writes `checkpoint` as `merger` changes it.
pub(in crate::export) fn write(
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
