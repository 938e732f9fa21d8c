//! Qwen3, its dense models: norms over the heads of queries and keys.

use super::architecture::Architecture;
use super::gguf::{GgufForm, RopeForm};
use super::sizes::{self, Defaults, KvHeads};

pub(super) static QWEN3: Architecture = Architecture {
    model_type: "qwen3",
    class: "Qwen3ForCausalLM",
    // A window is on only with `use_sliding_window`, which is refused.
    keys: &["attention_bias", "sliding_window", "max_window_layers"],
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
    gguf: GgufForm {
        names: &["qwen3"],
        interleaved: false,
        keys: &[],
        rope: &[RopeForm::Linear, RopeForm::Yarn],
        untied: true,
        square: false,
        biased: false,
        read: |_, shape| {
            shape.form.head_norms = true;
            Ok(())
        },
        write: |_| Vec::new(),
    },
};
