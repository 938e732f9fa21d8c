//! Llama 2, 3, 3.1 and 3.2, and models of that form, such as SmolLM2.

use super::{Architecture, sizes};

pub(super) static LLAMA: Architecture = Architecture {
    model_type: "llama",
    class: "LlamaForCausalLM",
    keys: &[],
    shape: |config| {
        let heads = config.required("num_attention_heads", config.size("num_attention_heads")?)?;
        sizes::read(config, config.size("num_key_value_heads")?.unwrap_or(heads))
    },
};
