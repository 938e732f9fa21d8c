//! Llama 2, 3, 3.1 and 3.2, and models of that form, such as SmolLM2.

use super::{Architecture, sizes};

pub(super) static LLAMA: Architecture = Architecture {
    model_type: "llama",
    class: "LlamaForCausalLM",
    keys: &[],
    shape: |config| sizes::read(config, &sizes::LLAMA),
};
