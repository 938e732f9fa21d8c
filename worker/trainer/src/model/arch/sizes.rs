//! Sizes and constants that every architecture has under the same keys.

use qlora_planner::ModelShape;

use super::keys::Keys;
use super::{ConfigFault, rope};

/// A decoder without a window, with `kv_heads` key and value heads.
pub(super) fn read(config: &Keys<'_>, kv_heads: usize) -> Result<ModelShape, ConfigFault> {
    if let Some(act) = config
        .text("hidden_act")?
        .filter(|act| !matches!(*act, "silu" | "swish"))
    {
        return Err(ConfigFault::Unsupported(format!(
            "`hidden_act: {act}` is not implemented"
        )));
    }
    let size = |key: &str| config.required(key, config.size(key)?);
    let (hidden, heads) = (size("hidden_size")?, size("num_attention_heads")?);
    if heads % kv_heads != 0 {
        return Err(format!(
            "{heads} query heads cannot share {kv_heads} key heads (`num_key_value_heads`)"
        )
        .into());
    }
    let rope = rope::read(config)?;
    Ok(ModelShape {
        hidden,
        layers: size("num_hidden_layers")?,
        heads,
        kv_heads,
        head_dim: head_dim(config, hidden, heads)?,
        ffn: size("intermediate_size")?,
        vocabulary: size("vocab_size")?,
        tied_embeddings: config.flag("tie_word_embeddings")?.unwrap_or(false),
        norm_epsilon: config.required("rms_norm_eps", config.number("rms_norm_eps")?)?,
        rope_theta: rope.theta,
        rope_scaling: rope.scaling,
        sliding_window: None,
        max_positions: size("max_position_embeddings")?,
    })
}

fn head_dim(config: &Keys<'_>, hidden: usize, heads: usize) -> Result<usize, String> {
    let size = match config.size("head_dim")? {
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
