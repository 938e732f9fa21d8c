//! Checks the tensors of a checkpoint against its configuration: each one that the configuration
//! asks for is there in its size, and there is no other. A tensor that is left out would silently
//! make another model.

use std::collections::BTreeMap;
use std::path::Path;

use qlora_planner::ModelShape;
use safetensors::Dtype;

use super::bnb;
use super::safetensors::{ShardEntry, Shards};
use crate::model::Part;
use crate::{Error, Result};

/// A tensor that a configuration asks for.
struct Wanted {
    dims: Vec<usize>,
    /// The keys of config.json that its size follows from.
    keys: &'static str,
    linear: bool,
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";
/// What can be read, for messages that refuse other weights.
pub(crate) const READABLE: &str =
    "weights in 16 or 32 bits, bitsandbytes' NF4 and .gguf files are read";

/// Checks the tensors of a Hugging Face folder.
///
/// # Errors
/// A tensor is missing, is of another size or type, or is not understood.
pub(super) fn check(shards: &Shards, shape: &ModelShape) -> Result<()> {
    // Before a list of what each block needs is made.
    if shape.layers > shards.count() {
        let fault = format!(
            "is missing: config.json has num_hidden_layers {}, the files hold {} tensors",
            shape.layers,
            shards.count()
        );
        return Err(shards.fault(&format!("model.layers.{}", shape.layers - 1), &fault));
    }
    let wanted = wanted(shape);
    for entry in shards.entries() {
        match wanted.get(&entry.name) {
            Some(wanted) if wanted.linear && bnb::is_quantized(shards, &entry.name) => {}
            Some(wanted) => agrees(shards, &entry, wanted)?,
            None => is_understood(shards, &entry, shape, &wanted)?,
        }
    }
    if let Some(missing) = wanted.keys().find(|name| !shards.has(name)) {
        let fault = if missing == HEAD {
            "is missing; set tie_word_embeddings: true in config.json if the embedding serves as output layer"
        } else {
            "is missing; download the model again"
        };
        return Err(shards.fault(missing, fault));
    }
    Ok(())
}

/// By their Hugging Face names.
fn wanted(shape: &ModelShape) -> BTreeMap<String, Wanted> {
    let wanted = |part: Part| {
        let wanted = Wanted {
            dims: part.dims(shape),
            keys: part.keys(),
            linear: matches!(part, Part::Weight(_)),
        };
        (part.hugging_face(&shape.form), wanted)
    };
    Part::all(shape).into_iter().map(wanted).collect()
}

fn agrees(shards: &Shards, entry: &ShardEntry, wanted: &Wanted) -> Result<()> {
    if !matches!(entry.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
        let fault = format!("has the element type {:?}; {READABLE}", entry.dtype);
        return Err(shards.fault(&entry.name, &fault));
    }
    if entry.shape != wanted.dims {
        let fault = format!(
            "is {:?}, config.json makes it {:?} ({})",
            entry.shape, wanted.dims, wanted.keys
        );
        return Err(shards.fault(&entry.name, &fault));
    }
    Ok(())
}

/// Refuses a tensor that the configuration does not ask for, unless it says nothing of its own.
fn is_understood(
    shards: &Shards,
    entry: &ShardEntry,
    shape: &ModelShape,
    wanted: &BTreeMap<String, Wanted>,
) -> Result<()> {
    let name = entry.name.as_str();
    // Inverse frequencies follow from config.json; old checkpoints have them once more.
    let follows = name.ends_with(".rotary_emb.inv_freq");
    let of_weight = bnb::weight_of(name).filter(|weight| bnb::is_quantized(shards, weight));
    if follows
        || (name == HEAD && shape.tied_embeddings)
        || of_weight.is_some_and(|w| wanted.contains_key(w))
    {
        return Ok(());
    }
    let layer = name
        .strip_prefix("model.layers.")
        .and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    let packed = [
        ".qweight",
        ".qzeros",
        ".scales",
        ".g_idx",
        ".weight_packed",
        ".weight_scale",
        ".SCB",
    ];
    let fault = if let Some(layer) = layer.filter(|&layer| layer >= shape.layers) {
        format!(
            "is of block {layer}, config.json has num_hidden_layers {}",
            shape.layers
        )
    } else if name.ends_with(".bias") {
        "is a bias that this architecture does not have".to_owned()
    } else if packed.iter().any(|ending| name.ends_with(ending)) || bnb::weight_of(name).is_some() {
        format!("belongs to weights that another method has quantized; {READABLE}")
    } else {
        "is no part of a decoder of its architecture".to_owned()
    };
    Err(shards.fault(name, &fault))
}

/// Whether the files hold an output layer of their own although config.json ties it to the
/// embedding. transformers 5 computes with it; one that is the embedding says nothing.
///
/// # Errors
/// One of the two cannot be read, or they differ in shape.
pub(super) fn has_own_head(shards: &Shards, shape: &ModelShape) -> Result<bool> {
    if !shape.tied_embeddings || !shards.has(HEAD) {
        return Ok(false);
    }
    let (head, embedding) = (shards.shape(HEAD)?, shards.shape(EMBEDDING)?);
    if head != embedding {
        let fault = format!(
            "is {head:?}, and config.json ties it to an embedding of {embedding:?}; remove it, or set tie_word_embeddings: false and give it the embedding's shape"
        );
        return Err(shards.fault(HEAD, &fault));
    }
    Ok(!shards.are_same(HEAD, EMBEDDING)?)
}

/// What a person should hear of a model that [`has_own_head`].
pub(super) const OWN_HEAD: &str = "config.json has tie_word_embeddings: true, and `lm_head.weight` differs from the embedding; it is used, as in transformers 5: set tie_word_embeddings: false, which other programs need";

/// Checks the tensors of a GGUF file, which lie there as `tensors`; those of `rope` may be among
/// them.
///
/// # Errors
/// See [`check`].
pub(super) fn check_gguf(
    path: &Path,
    tensors: &BTreeMap<&str, &[usize]>,
    shape: &ModelShape,
    rope: &[&str],
) -> Result<()> {
    let fault = |tensor: &str, fault: String| Error::Tensor {
        path: path.into(),
        tensor: tensor.into(),
        fault,
    };
    if shape.layers > tensors.len() {
        let text = format!(
            "is missing: the file says {} blocks and holds {} tensors",
            shape.layers,
            tensors.len()
        );
        return Err(fault(&format!("blk.{}", shape.layers - 1), text));
    }
    let parts = Part::all(shape).into_iter();
    let mut wanted: BTreeMap<String, Vec<usize>> =
        parts.map(|part| (part.gguf(), part.dims(shape))).collect();
    let pairs = shape.form.rotary_dim.unwrap_or(shape.head_dim) / 2;
    wanted.extend(rope.iter().map(|name| ((*name).to_owned(), vec![pairs])));
    for (name, dims) in tensors {
        match wanted.get(*name) {
            Some(wanted) if wanted == dims => {}
            Some(wanted) => {
                return Err(fault(
                    name,
                    format!("is {dims:?}, the file's metadata make it {wanted:?}"),
                ));
            }
            None if name.ends_with(".bias") => {
                return Err(fault(
                    name,
                    "is a bias that its architecture does not have".into(),
                ));
            }
            None => {
                return Err(fault(
                    name,
                    "is no part of a decoder of its architecture and of this many blocks".into(),
                ));
            }
        }
    }
    wanted.retain(|name, _| !rope.contains(&name.as_str()));
    let missing = wanted
        .keys()
        .find(|name| !tensors.contains_key(name.as_str()));
    missing.map_or(Ok(()), |name| {
        Err(fault(name, "is missing; download the file again".into()))
    })
}
