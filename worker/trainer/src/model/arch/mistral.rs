//! Mistral 7B, all versions.

use super::{Architecture, sizes};

/// Tokens that a token sees where `config.json` has no `sliding_window`; so in transformers.
const WINDOW: usize = 4096;

pub(super) static MISTRAL: Architecture = Architecture {
    model_type: "mistral",
    class: "MistralForCausalLM",
    keys: &["sliding_window"],
    shape: |config| {
        // Without the key there are eight; with `null` as many as query heads. Both are rare, so
        // neither is guessed.
        let kv_heads =
            config.required("num_key_value_heads", config.size("num_key_value_heads")?)?;
        let mut shape = sizes::read(config, kv_heads)?;
        // `null` turns the window off, no key leaves it on.
        let named = config.has("sliding_window");
        shape.sliding_window = if named {
            config.size("sliding_window")?
        } else {
            Some(WINDOW)
        };
        Ok(shape)
    },
};
