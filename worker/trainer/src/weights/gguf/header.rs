//! What the metadata of a GGUF file say about a model: every key is carried out, or refused by
//! name.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use qlora_planner::{DecoderForm, Dimension, ModelShape};

use super::rope::{self, RopeTensors};
use crate::model::{
    GgufForm, GgufKeys, RopeForm, as_number, as_written, gguf_form_named, gguf_names,
};
use crate::{Error, Result};

/// Keys, after the architecture's name, that are carried out for every architecture.
const DONE: [&str; 17] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.attn_factor",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "vocab_size",
];

/// The key and values of a file at `path`.
pub(crate) struct Header<'a> {
    pub path: &'a Path,
    pub metadata: &'a HashMap<String, Value>,
}

impl Header<'_> {
    fn fault(&self, fault: String) -> Error {
        Error::Model {
            path: self.path.into(),
            fault,
            help: "use a file made by a current convert_hf_to_gguf",
        }
    }

    fn unsupported(&self, fault: String) -> Error {
        Error::Unsupported {
            path: self.path.into(),
            fault,
            help: "take another model, or the Hugging Face folder of this one",
        }
    }

    fn keys(&self, prefix: &str) -> GgufKeys<'_> {
        GgufKeys {
            metadata: self.metadata,
            prefix: prefix.to_owned(),
        }
    }

    /// Whether the file is all of a model; `tensors` lie in it.
    ///
    /// # Errors
    /// It is one of several parts, or no model.
    pub(super) fn whole(&self, tensors: usize) -> Result<()> {
        let keys = self.keys("");
        let whole = |key: &str| self.read(keys.number(key)).map(|v| v.map(|v| v as usize));
        let (parts, part) = (
            whole("split.count")?.unwrap_or(1),
            whole("split.no")?.unwrap_or(0),
        );
        let all = whole("split.tensors.count")?.unwrap_or(tensors);
        if parts > 1 || all != tensors {
            return Err(Error::Model {
                path: self.path.into(),
                fault: format!(
                    "it is part {} of {parts}, with {tensors} of the model's {all} tensors",
                    part.saturating_add(1)
                ),
                help: "join the parts with `llama-gguf-split --merge FIRST-PART WHOLE.gguf` and name the whole file",
            });
        }
        match self.read(keys.text("general.type"))? {
            None | Some("model") => Ok(()),
            Some(other) => Err(self.fault(format!(
                "it holds a `{other}` (`general.type`), not a model"
            ))),
        }
    }

    fn read<T>(&self, value: std::result::Result<T, String>) -> Result<T> {
        value.map_err(|fault| self.fault(fault))
    }

    /// What `general.architecture` names.
    pub(super) fn form(&self) -> Result<(&str, &'static GgufForm)> {
        let keys = self.keys("");
        let name = self.read(keys.text("general.architecture"))?;
        let name = self.read(keys.required("general.architecture", name))?;
        let form = gguf_form_named(name).ok_or_else(|| {
            let known = gguf_names();
            self.unsupported(format!(
                "its architecture is `{name}` (`general.architecture`); {known} can be trained"
            ))
        });
        Ok((name, form?))
    }

    /// Sizes and constants of a model of `vocabulary` tokens with `rope` among its tensors; whether
    /// the embedding is tied, the tensors say.
    pub(crate) fn shape(&self, vocabulary: usize, rope: RopeTensors) -> Result<ModelShape> {
        let (name, form) = self.form()?;
        self.refuse_unknown(name, form)?;
        let keys = self.keys(&format!("{name}."));
        let mut shape = self.read(sizes(&keys, vocabulary))?;
        let rotated = self.rotated(&keys, form, shape.head_dim)?;
        shape.form.rotary_dim = (rotated != shape.head_dim).then_some(rotated);
        self.same_vocabulary(&keys, vocabulary)?;
        shape.rope_scaling = rope::read(&keys, form, rope, shape.max_positions)
            .map_err(|fault| self.unsupported(fault))?;
        self.read((form.read)(&keys, &mut shape))?;
        Ok(shape)
    }

    /// Elements of a head that are rotated.
    fn rotated(&self, keys: &GgufKeys<'_>, form: &GgufForm, head_dim: usize) -> Result<usize> {
        let refused = |key: &str, other: usize| {
            let name = keys.name(key);
            self.unsupported(format!(
                "`{name}` {other} beside heads of {head_dim} is not implemented"
            ))
        };
        let values = "attention.value_length";
        if let Some(other) = self.read(keys.size(values))?.filter(|&dim| dim != head_dim) {
            return Err(refused(values, other));
        }
        let key = "rope.dimension_count";
        let rotated = self.read(keys.size(key))?.unwrap_or(head_dim);
        let partial = form.has(RopeForm::Partial) && rotated < head_dim && rotated % 2 == 0;
        if rotated == head_dim || partial {
            return Ok(rotated);
        }
        Err(refused(key, rotated))
    }

    fn same_vocabulary(&self, keys: &GgufKeys<'_>, vocabulary: usize) -> Result<()> {
        let tokens = self
            .metadata
            .get("tokenizer.ggml.tokens")
            .and_then(|tokens| tokens.to_vec().ok())
            .map(Vec::len);
        let (key, size) = (keys.name("vocab_size"), keys.size("vocab_size"));
        for (what, size) in [
            (key.as_str(), self.read(size)?),
            ("tokenizer.ggml.tokens", tokens),
        ] {
            if let Some(size) = size.filter(|&size| size != vocabulary) {
                return Err(self.fault(format!(
                    "`{what}` is of {size} tokens, the embedding of {vocabulary}"
                )));
            }
        }
        Ok(())
    }

    /// Refuses the first key of the architecture, in their order, that asks for what is not
    /// implemented.
    fn refuse_unknown(&self, arch: &str, form: &GgufForm) -> Result<()> {
        let mut keys: Vec<_> = self.metadata.iter().collect();
        keys.sort_by_key(|(key, _)| key.as_str());
        for (key, value) in keys {
            let own = key.strip_prefix(arch);
            let Some(own) = own.and_then(|rest| rest.strip_prefix('.')) else {
                continue;
            };
            if !(DONE.contains(&own) || form.keys.contains(&own) || turned_off(own, value)) {
                let value = as_written(value);
                return Err(self.unsupported(format!("`{key}: {value}` is not implemented")));
            }
        }
        Ok(())
    }
}

/// Whether `value` of `key`, after the architecture's name, asks for nothing that is not
/// implemented.
fn turned_off(key: &str, value: &Value) -> bool {
    let is = |wanted: f64| as_number(value) == Some(wanted);
    match key {
        "tensor_data_layout" => value
            .to_string()
            .is_ok_and(|kind| kind == "Meta AI original pth"),
        "expert_count" | "expert_used_count" => is(0.0),
        "attention.causal" => value.to_bool().is_ok_and(|causal| causal),
        // Where a model comes from.
        "rope.scaling.finetuned" => true,
        // What YaRN has in llama.cpp, whatever the file says.
        "rope.scaling.yarn_ext_factor" | "rope.scaling.yarn_attn_factor" => is(1.0),
        "rope.scaling.yarn_beta_fast" => is(rope::BETA_FAST),
        "rope.scaling.yarn_beta_slow" => is(rope::BETA_SLOW),
        _ => false,
    }
}

/// Sizes and constants that every architecture has under the same keys.
fn sizes(keys: &GgufKeys<'_>, vocabulary: usize) -> std::result::Result<ModelShape, String> {
    let needed = |key: &str| keys.required(key, keys.size(key)?);
    let (hidden, heads) = (needed("embedding_length")?, needed("attention.head_count")?);
    let kv_heads = keys.size("attention.head_count_kv")?.unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        return Err(format!(
            "{heads} query heads cannot share {kv_heads} key heads"
        ));
    }
    let head_dim = keys.size("attention.key_length")?;
    let head_dim = head_dim.unwrap_or(hidden / heads);
    if head_dim == 0 || !head_dim.is_multiple_of(2) {
        return Err(format!("heads of {head_dim} cannot be rotated in pairs"));
    }
    let epsilon = "attention.layer_norm_rms_epsilon";
    let shape = ModelShape {
        hidden,
        layers: needed("block_count")?,
        heads,
        kv_heads,
        head_dim,
        ffn: needed("feed_forward_length")?,
        vocabulary,
        tied_embeddings: false,
        norm_epsilon: keys.required(epsilon, keys.positive(epsilon)?)?,
        rope_theta: keys.positive("rope.freq_base")?.unwrap_or(10_000.0),
        rope_scaling: None,
        sliding_window: None,
        max_positions: needed("context_length")?,
        form: DecoderForm::default(),
    };
    let key = |dimension| match dimension {
        Dimension::Hidden => "embedding_length",
        Dimension::Queries => "attention.head_count",
        Dimension::Keys => "attention.head_count_kv",
        Dimension::FeedForward => "feed_forward_length",
        Dimension::Layers => "block_count",
        Dimension::Vocabulary => "vocab_size",
    };
    let counted = shape.counted();
    counted.map_err(|fault| format!("`{}` asks for {fault}", keys.name(key(fault.dimension))))
}
