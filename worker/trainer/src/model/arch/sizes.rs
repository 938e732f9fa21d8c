//! Sizes and constants that every architecture has under the same keys.

use qlora_planner::{Activation, DecoderForm, Dimension, ModelShape};

use super::fault::ConfigFault;
use super::keys::Keys;
use super::rope::{self, Reading};

/// What transformers takes where a key is absent, and which keys it reads.
pub(super) struct Defaults {
    pub kv_heads: KvHeads,
    /// Where `head_dim` is absent; none is `hidden_size` over the heads.
    pub head_dim: Option<usize>,
    pub tied_embeddings: bool,
    pub norm_epsilon: Option<f64>,
    /// The key that names the activation, and what it is without the key.
    pub activation: (&'static str, Activation),
    pub rope: Reading,
}

/// Key and value heads where `num_key_value_heads` is absent.
pub(super) enum KvHeads {
    /// As many as query heads.
    AsQueries,
    /// A number that no published model has: the key is asked for.
    Required,
}

/// Those of Llama and of most others.
pub(super) const LLAMA: Defaults = Defaults {
    kv_heads: KvHeads::AsQueries,
    head_dim: None,
    tied_embeddings: false,
    norm_epsilon: None,
    activation: ("hidden_act", Activation::Silu),
    rope: rope::PLAIN,
};

/// A decoder of Llama's form without a window.
pub(super) fn read(config: &Keys<'_>, defaults: &Defaults) -> Result<ModelShape, ConfigFault> {
    let size = |key: &str| config.required(key, config.size(key)?);
    let (hidden, heads) = (size("hidden_size")?, size("num_attention_heads")?);
    let kv_heads = match (config.size("num_key_value_heads")?, &defaults.kv_heads) {
        (Some(given), _) => given,
        (None, KvHeads::AsQueries) => heads,
        (None, KvHeads::Required) => config.required("num_key_value_heads", None::<usize>)?,
    };
    if heads % kv_heads != 0 {
        return Err(format!(
            "{heads} query heads cannot share {kv_heads} key heads (`num_key_value_heads`)"
        )
        .into());
    }
    let head_dim = head_dim(config, hidden, heads, defaults.head_dim)?;
    let max_positions = size("max_position_embeddings")?;
    let rope = rope::read(config, &defaults.rope, head_dim, max_positions)?;
    let epsilon = config.number("rms_norm_eps")?.or(defaults.norm_epsilon);
    let tied = config.flag("tie_word_embeddings")?;
    let attention_bias = config.flag("attention_bias")?.unwrap_or(false);
    let shape = ModelShape {
        hidden,
        layers: size("num_hidden_layers")?,
        heads,
        kv_heads,
        head_dim,
        ffn: size("intermediate_size")?,
        vocabulary: size("vocab_size")?,
        tied_embeddings: tied.unwrap_or(defaults.tied_embeddings),
        norm_epsilon: config.required("rms_norm_eps", epsilon)?,
        rope_theta: rope.theta,
        rope_scaling: rope.scaling,
        sliding_window: None,
        max_positions,
        form: DecoderForm {
            activation: activation(config, defaults.activation)?,
            rotary_dim: rope.rotary_dim,
            local_rope_theta: rope.local_theta,
            qkv_bias: attention_bias,
            o_bias: attention_bias,
            // An architecture that does not list the keys refuses them.
            mlp_bias: config.flag("mlp_bias")?.unwrap_or(false),
            ..DecoderForm::default()
        },
    };
    let key = |dimension| match dimension {
        Dimension::Hidden => "hidden_size",
        Dimension::Queries => "num_attention_heads",
        Dimension::Keys => "num_key_value_heads",
        Dimension::FeedForward => "intermediate_size",
        Dimension::Layers => "num_hidden_layers",
        Dimension::Vocabulary => "vocab_size",
    };
    let counted = shape.counted();
    Ok(counted.map_err(|fault| format!("`{}` asks for {fault}", key(fault.dimension)))?)
}

fn activation(
    config: &Keys<'_>,
    (key, default): (&str, Activation),
) -> Result<Activation, ConfigFault> {
    match config.text(key)? {
        None => Ok(default),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
        Some(other) => Err(ConfigFault::Unsupported(format!(
            "`{key}: {other}` is not implemented"
        ))),
    }
}

fn head_dim(
    config: &Keys<'_>,
    hidden: usize,
    heads: usize,
    default: Option<usize>,
) -> Result<usize, String> {
    let size = match config.size("head_dim")?.or(default) {
        Some(size) => size,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            return Err(format!(
                "`head_dim` is missing, and {heads} heads do not divide `hidden_size` {hidden}"
            ));
        }
    };
    if size.is_multiple_of(2) {
        Ok(size)
    } else {
        Err(format!("heads of {size} cannot be rotated in pairs"))
    }
}
