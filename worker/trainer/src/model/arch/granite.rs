//! Granite 3, its dense models: Llama with four constants.

use qlora_planner::EmbeddingScale;

use super::{Architecture, sizes};

pub(super) static GRANITE: Architecture = Architecture {
    model_type: "granite",
    class: "GraniteForCausalLM",
    keys: &[
        "attention_multiplier",
        "embedding_multiplier",
        "logits_scaling",
        "residual_multiplier",
    ],
    shape: |config| {
        let mut shape = sizes::read(config, &sizes::LLAMA)?;
        // Without a key transformers takes 1.
        let constant = |key: &str| config.number(key);
        let form = &mut shape.form;
        form.embedding_scale = constant("embedding_multiplier")?.map(EmbeddingScale::Factor);
        form.score_scale = Some(constant("attention_multiplier")?.unwrap_or(1.0));
        form.residual_scale = constant("residual_multiplier")?;
        form.logit_scale = constant("logits_scaling")?.map(|divisor| 1.0 / divisor);
        Ok(shape)
    },
};
