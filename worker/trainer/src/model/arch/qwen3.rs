//! Qwen3, its dense models: norms over the heads of queries and keys.

use super::Architecture;
use super::sizes::{self, Defaults, KvHeads};

pub(super) static QWEN3: Architecture = Architecture {
    model_type: "qwen3",
    class: "Qwen3ForCausalLM",
    // A window is on only with `use_sliding_window`, which is refused.
    keys: &["sliding_window", "max_window_layers"],
    shape: |config| {
        let defaults = Defaults {
            kv_heads: KvHeads::Required,
            head_dim: Some(128),
            ..sizes::LLAMA
        };
        let mut shape = sizes::read(config, &defaults)?;
        shape.form.head_norms = true;
        Ok(shape)
    },
};
