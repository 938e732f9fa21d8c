//! What the metadata of a GGUF file say of a model: everything is done, or refused by its key.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use qlora_planner::{DecoderForm, ModelShape};

use crate::{Error, Result};

/// Keys, after the architecture's name, that are carried out.
const DONE: [&str; 13] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "vocab_size",
];

/// No size of a model is larger.
const LARGEST: f64 = u32::MAX as f64;

/// The key and values of a file at `path`.
pub(super) struct Header<'a> {
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

    /// Whether the file is all of a model; `tensors` lie in it.
    ///
    /// # Errors
    /// It is one of several parts, or no model.
    pub(super) fn whole(&self, tensors: usize) -> Result<()> {
        let whole = |key: &str| self.number(key).map(|v| v.map(|v| v as usize));
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
        match self.text("general.type")? {
            None | Some("model") => Ok(()),
            Some(other) => Err(self.fault(format!(
                "it holds a `{other}` (`general.type`), not a model"
            ))),
        }
    }

    /// Sizes and constants of a model of `vocabulary` tokens; whether the embedding is tied, and
    /// how frequencies are scaled, the tensors say.
    pub(super) fn shape(&self, vocabulary: usize) -> Result<ModelShape> {
        let arch = self.required("general.architecture", self.text("general.architecture")?)?;
        if arch != "llama" && arch != "mistral" {
            return Err(Error::Unsupported {
                path: self.path.into(),
                fault: format!("its architecture is `{arch}`"),
                help: "Llama and Mistral can be trained",
            });
        }
        self.refuse_unknown(arch)?;
        let size = |key: &str| self.size(&format!("{arch}.{key}"));
        let needed = |key: &str| self.required(&format!("{arch}.{key}"), size(key)?);
        let (hidden, heads) = (needed("embedding_length")?, needed("attention.head_count")?);
        let kv_heads = size("attention.head_count_kv")?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(self.fault(format!(
                "{heads} query heads cannot share {kv_heads} key heads"
            )));
        }
        let head_dim = size("attention.key_length")?.unwrap_or(hidden / heads);
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return Err(self.fault(format!("heads of {head_dim} cannot be rotated in pairs")));
        }
        for key in ["attention.value_length", "rope.dimension_count"] {
            if let Some(other) = size(key)?.filter(|&other| other != head_dim) {
                return Err(self.unsupported(format!(
                    "`{arch}.{key}` {other} beside heads of {head_dim} is not implemented"
                )));
            }
        }
        self.same_vocabulary(arch, vocabulary)?;
        let epsilon = format!("{arch}.attention.layer_norm_rms_epsilon");
        Ok(ModelShape {
            hidden,
            layers: needed("block_count")?,
            heads,
            kv_heads,
            head_dim,
            ffn: needed("feed_forward_length")?,
            vocabulary,
            tied_embeddings: false,
            norm_epsilon: self.required(&epsilon, self.positive(&epsilon)?)?,
            rope_theta: self
                .positive(&format!("{arch}.rope.freq_base"))?
                .unwrap_or(10_000.0),
            rope_scaling: None,
            sliding_window: size("attention.sliding_window")?,
            max_positions: needed("context_length")?,
            form: DecoderForm::default(),
        })
    }

    fn same_vocabulary(&self, arch: &str, vocabulary: usize) -> Result<()> {
        let tokens = self
            .metadata
            .get("tokenizer.ggml.tokens")
            .and_then(|tokens| tokens.to_vec().ok())
            .map(Vec::len);
        let key = format!("{arch}.vocab_size");
        for (what, size) in [
            (key.as_str(), self.size(&key)?),
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
    fn refuse_unknown(&self, arch: &str) -> Result<()> {
        let mut keys: Vec<_> = self.metadata.iter().collect();
        keys.sort_by_key(|(key, _)| key.as_str());
        for (key, value) in keys {
            let Some(own) = key
                .strip_prefix(arch)
                .and_then(|rest| rest.strip_prefix('.'))
            else {
                continue;
            };
            let off = match own {
                own if DONE.contains(&own) => true,
                "rope.scaling.type" => value.to_string().is_ok_and(|kind| kind == "none"),
                "tensor_data_layout" => value
                    .to_string()
                    .is_ok_and(|kind| kind == "Meta AI original pth"),
                "expert_count" | "expert_used_count" => as_number(value) == Some(0.0),
                "attention.causal" => value.to_bool().is_ok_and(|causal| causal),
                _ => false,
            };
            if !off {
                return Err(self.unsupported(format!("`{key}: {value:?}` is not implemented")));
            }
        }
        Ok(())
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.fault(format!("the metadata lack `{key}`")))
    }

    fn text(&self, key: &str) -> Result<Option<&str>> {
        let Some(value) = self.metadata.get(key) else {
            return Ok(None);
        };
        value
            .to_string()
            .map(|text| Some(text.as_str()))
            .map_err(|_| self.fault(format!("`{key}` is no text")))
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.metadata.get(key) else {
            return Ok(None);
        };
        as_number(value)
            .map(Some)
            .ok_or_else(|| self.fault(format!("`{key}` is no number, or a number for each block")))
    }

    fn positive(&self, key: &str) -> Result<Option<f64>> {
        match self.number(key)? {
            Some(value) if !(value > 0.0 && value.is_finite()) => {
                Err(self.fault(format!("`{key}` is {value}, not a number above 0")))
            }
            value => Ok(value),
        }
    }

    /// A whole number; 0 is none.
    fn size(&self, key: &str) -> Result<Option<usize>> {
        let value = self.number(key)?.filter(|&value| value != 0.0);
        match value {
            Some(value) if !(0.0..=LARGEST).contains(&value) || value.fract() != 0.0 => {
                Err(self.fault(format!("`{key}` is {value}")))
            }
            value => Ok(value.map(|value| value as usize)),
        }
    }
}

/// None of a text, a list or a truth value.
pub(super) fn as_number(value: &Value) -> Option<f64> {
    Some(match value {
        Value::U8(v) => f64::from(*v),
        Value::I8(v) => f64::from(*v),
        Value::U16(v) => f64::from(*v),
        Value::I16(v) => f64::from(*v),
        Value::U32(v) => f64::from(*v),
        Value::I32(v) => f64::from(*v),
        Value::U64(v) => *v as f64,
        Value::I64(v) => *v as f64,
        Value::F32(v) => f64::from(*v),
        Value::F64(v) => *v,
        Value::Bool(_) | Value::String(_) | Value::Array(_) => return None,
    })
}
