//! Llama 2, 3, 3.1 and 3.2, and models of that form, such as SmolLM2.

use super::architecture::Architecture;
use super::gguf::{GgufForm, RopeForm, count};
use super::sizes;

pub(super) static LLAMA: Architecture = Architecture {
    model_type: "llama",
    class: "LlamaForCausalLM",
    keys: &["attention_bias", "mlp_bias"],
    shape: |config| sizes::read(config, &sizes::LLAMA),
    gguf: GGUF,
};

/// That of Llama and Mistral.
pub(super) const GGUF: GgufForm = GgufForm {
    names: &["llama", "mistral"],
    interleaved: true,
    keys: &["attention.sliding_window"],
    rope: &[RopeForm::Linear, RopeForm::Yarn, RopeForm::Divisors],
    untied: true,
    square: false,
    biased: true,
    read: |keys, shape| {
        shape.sliding_window = keys.size("attention.sliding_window")?;
        Ok(())
    },
    write: |shape| {
        let window = shape.sliding_window;
        let key = window.map(|window| ("attention.sliding_window", count(window)));
        key.into_iter().collect()
    },
};
