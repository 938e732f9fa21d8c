//! Mistral 7B, all versions, and Mistral Nemo.

use super::architecture::Architecture;
use super::llama;
use super::sizes::{self, Defaults, KvHeads};

/// Tokens that a token sees where `config.json` has no `sliding_window`; so in transformers.
const WINDOW: usize = 4096;

pub(super) static MISTRAL: Architecture = Architecture {
    model_type: "mistral",
    class: "MistralForCausalLM",
    keys: &["sliding_window"],
    shape: |config| {
        let defaults = Defaults {
            kv_heads: KvHeads::Required,
            ..sizes::LLAMA
        };
        let mut shape = sizes::read(config, &defaults)?;
        // `null` turns the window off, no key leaves it on.
        let named = config.has("sliding_window");
        shape.sliding_window = if named {
            config.size("sliding_window")?
        } else {
            Some(WINDOW)
        };
        Ok(shape)
    },
    gguf: llama::GGUF,
};
