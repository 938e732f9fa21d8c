//! Phi-3, Phi-3.5-mini, Phi-4 and Phi-4-mini: one matrix for queries, keys and values, one for gate
//! and up, and rotation of a part of a head.

use super::architecture::Architecture;
use super::fault::ConfigFault;
use super::gguf::{GgufForm, RopeForm, count};
use super::rope::Reading;
use super::sizes::{self, Defaults};

pub(super) static PHI3: Architecture = Architecture {
    model_type: "phi3",
    class: "Phi3ForCausalLM",
    keys: &[
        // The code of the model's repository, which transformers has as its own since.
        "auto_map",
        // Of a layer that does not exist.
        "embd_pdrop",
        // Of the repository's own code; transformers does not read them.
        "full_attn_mod",
        "interpolate_factor",
        "lm_head_bias",
        "original_max_position_embeddings",
        "partial_rotary_factor",
        "resid_pdrop",
        "sliding_window",
    ],
    shape: |config| {
        let defaults = Defaults {
            norm_epsilon: Some(1e-5),
            rope: Reading {
                theta: 10_000.0,
                partial: true,
                long: Some(4096.0),
                local: None,
            },
            ..sizes::LLAMA
        };
        let mut shape = sizes::read(config, &defaults)?;
        let off = config.value("resid_pdrop").and_then(|value| value.as_f64()) == Some(0.0);
        if config.value("resid_pdrop").is_some() && !off {
            return Err(ConfigFault::Unsupported(
                "`resid_pdrop` other than 0 is not implemented".into(),
            ));
        }
        if config.flag("lm_head_bias")? == Some(true) {
            return Err(ConfigFault::Unsupported(
                "`lm_head_bias: true` is not implemented".into(),
            ));
        }
        shape.sliding_window = config.size("sliding_window")?;
        shape.form.fused = true;
        Ok(shape)
    },
    gguf: GgufForm {
        names: &["phi3"],
        interleaved: false,
        keys: &["attention.sliding_window"],
        rope: &[RopeForm::Linear, RopeForm::Long, RopeForm::Partial],
        untied: true,
        square: true,
        biased: false,
        read: |keys, shape| {
            shape.sliding_window = keys.size("attention.sliding_window")?;
            shape.form.fused = true;
            Ok(())
        },
        write: |shape| vec![("attention.sliding_window", count(shape.sliding_window))],
    },
};
