//! Qwen2 and Qwen2.5, whose queries, keys and values have biases.

use super::architecture::Architecture;
use super::fault::ConfigFault;
use super::gguf::{GgufForm, RopeForm};
use super::sizes::{self, Defaults, KvHeads};

pub(super) static QWEN2: Architecture = Architecture {
    model_type: "qwen2",
    class: "Qwen2ForCausalLM",
    // A window is on only with `use_sliding_window`, which is refused.
    keys: &["sliding_window", "max_window_layers", "use_mrope"],
    shape: |config| {
        let defaults = Defaults {
            kv_heads: KvHeads::Required,
            ..sizes::LLAMA
        };
        let mut shape = sizes::read(config, &defaults)?;
        if config.flag("use_mrope")? == Some(true) {
            return Err(ConfigFault::Unsupported(
                "`use_mrope: true` is not implemented".into(),
            ));
        }
        shape.form.qkv_bias = true;
        Ok(shape)
    },
    gguf: GgufForm {
        names: &["qwen2"],
        interleaved: false,
        keys: &[],
        rope: &[RopeForm::Linear, RopeForm::Yarn],
        untied: true,
        square: true,
        biased: false,
        read: |_, shape| {
            shape.form.qkv_bias = true;
            Ok(())
        },
        write: |_| Vec::new(),
    },
};
