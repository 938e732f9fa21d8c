//! Granite 3, its dense models: Llama with four constants.

use qlora_planner::EmbeddingScale;

use super::architecture::Architecture;
use super::gguf::{GgufForm, RopeForm, float};
use super::sizes;

pub(super) static GRANITE: Architecture = Architecture {
    model_type: "granite",
    class: "GraniteForCausalLM",
    keys: &[
        "attention_bias",
        "attention_multiplier",
        "embedding_multiplier",
        "logits_scaling",
        "mlp_bias",
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
    gguf: GgufForm {
        names: &["granite"],
        interleaved: true,
        keys: &[
            "attention.scale",
            "embedding_scale",
            "logit_scale",
            "residual_scale",
        ],
        rope: &[RopeForm::Linear, RopeForm::Yarn, RopeForm::Divisors],
        untied: true,
        square: false,
        biased: false,
        read: |keys, shape| {
            let form = &mut shape.form;
            let logits = keys.required("logit_scale", keys.positive("logit_scale")?)?;
            form.embedding_scale = keys
                .optional("embedding_scale")?
                .map(EmbeddingScale::Factor);
            form.score_scale = keys.optional("attention.scale")?;
            form.residual_scale = keys.optional("residual_scale")?;
            form.logit_scale = Some(1.0 / logits);
            Ok(())
        },
        write: |shape| {
            let form = &shape.form;
            let embedding = match form.embedding_scale {
                Some(EmbeddingScale::Factor(factor)) => Some(factor),
                Some(EmbeddingScale::RootOfHidden) | None => None,
            };
            let keys = [
                ("attention.scale", form.score_scale),
                ("embedding_scale", embedding),
                ("logit_scale", Some(1.0 / form.logit_scale.unwrap_or(1.0))),
                ("residual_scale", form.residual_scale),
            ];
            let given = |(key, number): (_, Option<f64>)| Some((key, float(number?)));
            keys.into_iter().filter_map(given).collect()
        },
    },
};
