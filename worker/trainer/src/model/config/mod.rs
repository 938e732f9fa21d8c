//! `config.json` of a Hugging Face checkpoint: everything that it says is done, or refused by its key.

mod keys;
mod known;
mod quantization;
mod rope;

use qlora_planner::ModelShape;
use serde_json::Value;

use self::keys::Keys;

/// Tokens that a Mistral token sees where its `config.json` has no `sliding_window`; so in transformers.
const MISTRAL_WINDOW: usize = 4096;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Llama,
    Mistral,
}

/// Why a `config.json` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigFault {
    /// It does not say what it must, or contradicts itself.
    #[error("{0}")]
    Broken(String),
    /// It says clearly what is not carried out here.
    #[error("{0}")]
    Unsupported(String),
}

impl From<String> for ConfigFault {
    fn from(fault: String) -> Self {
        Self::Broken(fault)
    }
}

/// Sizes and constants of a Llama or Mistral `config.json`; the error says what does not fit.
pub fn shape_from_json(config: &Value) -> Result<ModelShape, ConfigFault> {
    let config = Keys::new(config)?;
    let family = family(&config)?;
    quantization::check(&config).map_err(ConfigFault::Unsupported)?;
    known::check(&config).map_err(ConfigFault::Unsupported)?;
    if let Some(act) = config.text("hidden_act")?.filter(|act| !matches!(*act, "silu" | "swish")) {
        return Err(ConfigFault::Unsupported(format!("`hidden_act: {act}` is not implemented")));
    }
    let size = |key: &str| config.required(key, config.size(key)?);
    let (hidden, heads) = (size("hidden_size")?, size("num_attention_heads")?);
    let kv_heads = match config.size("num_key_value_heads")? {
        Some(heads) => heads,
        // A Mistral without the key has eight; one with `null` has as many as query heads. Both are rare.
        None if family == Family::Mistral => return Err("`num_key_value_heads` is missing".to_owned().into()),
        None => heads,
    };
    if heads % kv_heads != 0 {
        return Err(format!("{heads} query heads cannot share {kv_heads} key heads (`num_key_value_heads`)").into());
    }
    let rope = rope::read(&config)?;
    Ok(ModelShape {
        hidden,
        layers: size("num_hidden_layers")?,
        heads,
        kv_heads,
        head_dim: head_dim(&config, hidden, heads)?,
        ffn: size("intermediate_size")?,
        vocabulary: size("vocab_size")?,
        tied_embeddings: config.flag("tie_word_embeddings")?.unwrap_or(false),
        norm_epsilon: config.required("rms_norm_eps", config.number("rms_norm_eps")?)?,
        rope_theta: rope.theta,
        rope_scaling: rope.scaling,
        sliding_window: sliding_window(&config, family)?,
        max_positions: size("max_position_embeddings")?,
    })
}

/// By `model_type`; `architectures` must agree, because a classifier has another head.
fn family(config: &Keys<'_>) -> Result<Family, ConfigFault> {
    let (family, wanted) = match config.text("model_type")? {
        Some("llama") => (Family::Llama, "LlamaForCausalLM"),
        Some("mistral") => (Family::Mistral, "MistralForCausalLM"),
        Some(other) => return Err(ConfigFault::Unsupported(format!("the architecture `{other}` is not supported"))),
        None => return Err("`model_type` is missing".to_owned().into()),
    };
    let Some(found) = config.value("architectures") else { return Ok(family) };
    let named = |name: &Value| name.as_str().is_some_and(|name| name.eq_ignore_ascii_case(wanted));
    match found.as_array().map(Vec::as_slice) {
        Some([]) => Ok(family),
        Some([name]) if named(name) => Ok(family),
        _ => Err(ConfigFault::Unsupported(format!("`architectures: {found}` is not supported; `{wanted}` is"))),
    }
}

fn head_dim(config: &Keys<'_>, hidden: usize, heads: usize) -> Result<usize, String> {
    let size = match config.size("head_dim")? {
        Some(size) => size,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => return Err(format!("`head_dim` is missing, and {heads} heads do not divide `hidden_size` {hidden}")),
    };
    if size.is_multiple_of(2) { Ok(size) } else { Err(format!("heads of {size} cannot be rotated in pairs")) }
}

fn sliding_window(config: &Keys<'_>, family: Family) -> Result<Option<usize>, ConfigFault> {
    let window = config.size("sliding_window")?;
    match family {
        Family::Llama if window.is_some() => {
            Err(ConfigFault::Unsupported("`sliding_window` is not implemented for Llama".into()))
        }
        Family::Llama => Ok(None),
        // `null` turns the window off, no key leaves it on.
        Family::Mistral if config.has("sliding_window") => Ok(window),
        Family::Mistral => Ok(Some(MISTRAL_WINDOW)),
    }
}

#[cfg(test)]
mod tests;
