//! Checks that a GGUF file can express a model: its metadata are read back before anything is
//! written, and what they cannot express is refused by its key of `config.json`. A window that
//! llama.cpp lacks only gives a warning: shorter texts do not need it.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;
use qlora_planner::{EmbeddingScale, LayerRope, ModelShape, RopeScaling};
use serde_json::Value as Json;

use super::rotary;
use crate::model::GgufForm;
use crate::weights::gguf::Header;
use crate::weights::{Checkpoint, ModelFiles};
use crate::{Error, Result};

/// Numbers in files have 24 bits.
const TOLERANCE: f64 = 1e-6;

/// What helps where llama.cpp does not compute what a model does.
const WAY_OUT: &str = "a Hugging Face folder holds it: name an --out without .gguf";

/// What a person should hear of a window of all blocks: llama.cpp's graphs of such models have
/// none.
pub(super) fn unused_window(shape: &ModelShape) -> Option<String> {
    let window = shape
        .sliding_window
        .filter(|&window| window < shape.max_positions)?;
    Some(format!(
        "llama.cpp computes no window for this model: beyond {window} tokens (`sliding_window`) its answers differ from those of the training"
    ))
}

/// Weights that were made here are in no file.
pub(super) fn no_files(checkpoint: &Checkpoint) -> Error {
    Error::Export {
        path: checkpoint.files.path.clone(),
        fault: "are in no file; name a model's folder or GGUF file".into(),
    }
}

/// # Errors
/// llama.cpp would not compute what the model in `files` does from `metadata`.
pub(super) fn check(
    files: &ModelFiles,
    form: &GgufForm,
    metadata: &[(String, Value)],
) -> Result<()> {
    let shape = &files.shape;
    let refused = |fault: String| Error::Export {
        path: files.path.clone(),
        fault,
    };
    let differs = |key: &str| {
        let graph = form.name();
        refused(format!(
            "has `{key}` with a value that llama.cpp's `{graph}` cannot compute; {WAY_OUT}"
        ))
    };
    if form.square && shape.heads * shape.head_dim != shape.hidden {
        return Err(differs("head_dim"));
    }
    if !form.untied && !shape.tied_embeddings {
        return Err(differs("tie_word_embeddings"));
    }
    let read = Header {
        path: &files.path,
        metadata: &metadata.iter().cloned().collect::<HashMap<_, _>>(),
    };
    let found = match read.shape(shape.vocabulary, rotary::tensors(shape, form)) {
        Ok(read) => with_what_tensors_say(read, shape, form),
        Err(Error::Unsupported { fault, .. } | Error::Model { fault, .. }) => {
            return Err(refused(format!(
                "cannot be a GGUF file: {fault}; {WAY_OUT}"
            )));
        }
        Err(other) => return Err(other),
    };
    let json = |shape: ModelShape| {
        serde_json::to_value(shape).map_err(|fault| refused(format!("is not written: {fault}")))
    };
    let (wanted, read) = (json(plain(shape, form))?, json(plain(&found, form))?);
    first_difference(&wanted, &read)
        .map_or(Ok(()), |name| Err(differs(key_of(&name, &[shape, &found]))))
}

/// `read` with what no metadata say of `shape`, and its tensors do.
fn with_what_tensors_say(mut read: ModelShape, shape: &ModelShape, form: &GgufForm) -> ModelShape {
    read.tied_embeddings = shape.tied_embeddings;
    if form.biased {
        read.form.qkv_bias = shape.form.qkv_bias;
        read.form.o_bias = shape.form.o_bias;
        read.form.mlp_bias = shape.form.mlp_bias;
    }
    read
}

/// `shape` with values that compute the same written in one way.
fn plain(shape: &ModelShape, form: &GgufForm) -> ModelShape {
    let mut plain = shape.clone();
    plain.rope_scaling = match rotary::tensors(shape, form).divisors {
        Some(divisors) => Some(RopeScaling::Divisors(divisors)),
        None => plain.rope_scaling,
    };
    if plain.rope_scaling == Some(RopeScaling::Linear { factor: 1.0 }) {
        plain.rope_scaling = None;
    }
    let form = &mut plain.form;
    let root = 1.0 / (shape.head_dim as f64).sqrt();
    form.score_scale = Some(form.score_scale.unwrap_or(root));
    form.residual_scale = Some(form.residual_scale.unwrap_or(1.0));
    form.logit_scale = Some(form.logit_scale.unwrap_or(1.0));
    form.embedding_scale = form
        .embedding_scale
        .filter(|&scale| scale != EmbeddingScale::Factor(1.0));
    if !form
        .layers
        .iter()
        .any(|layer| layer.rope == LayerRope::Local)
    {
        form.local_rope_theta = None;
    }
    plain
}

/// The name of the first value, the innermost in an object, that `read` has otherwise.
fn first_difference(wanted: &Json, read: &Json) -> Option<String> {
    let (Json::Object(wanted), Json::Object(read)) = (wanted, read) else {
        return None;
    };
    wanted.iter().find_map(|(key, wanted)| {
        let read = read.get(key).unwrap_or(&Json::Null);
        let inner = || first_difference(wanted, read).unwrap_or_else(|| key.clone());
        (!same(wanted, read)).then(inner)
    })
}

fn same(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Object(a), Json::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (Json::Array(a), Json::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Json::Number(a), Json::Number(b)) => match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()),
            _ => false,
        },
        _ => a == b,
    }
}

/// The key of config.json that gives the value `name` of a shape.
fn key_of<'a>(name: &'a str, shapes: &[&ModelShape]) -> &'a str {
    let mut layers = shapes.iter().flat_map(|shape| &shape.form.layers);
    match name {
        "qkv_bias" | "o_bias" => "attention_bias",
        "score_scale" => "query_pre_attn_scalar",
        "score_cap" => "attn_logit_softcapping",
        "logit_cap" => "final_logit_softcapping",
        "layers" if layers.any(|layer| layer.rope == LayerRope::Absent) => "no_rope_layers",
        "layers" => "layer_types",
        "rotary_dim" => "partial_rotary_factor",
        "Yarn" | "Llama3" | "LongRope" | "Linear" | "Divisors" => "rope_scaling",
        "max_positions" => "max_position_embeddings",
        "norm_epsilon" => "rms_norm_eps",
        "residual_scale" => "residual_multiplier",
        "embedding_scale" => "embedding_multiplier",
        "logit_scale" => "logits_scaling",
        "local_rope_theta" => "rope_local_base_freq",
        "ffn" => "intermediate_size",
        "hidden" => "hidden_size",
        "heads" => "num_attention_heads",
        "kv_heads" => "num_key_value_heads",
        "vocabulary" => "vocab_size",
        "original_positions" => "original_max_position_embeddings",
        other => other,
    }
}
