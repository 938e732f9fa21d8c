//! Gemma 3, its text models: Gemma 2 without a cap on scores, with norms over the heads of queries
//! and keys, and a rotary embedding of their own for the blocks with a window.

use qlora_planner::{LayerForm, LayerRope};

use super::architecture::Architecture;
use super::fault::ConfigFault;
use super::gemma2::{self, DEFAULTS, cap};
use super::gguf::{GgufForm, RopeForm, float};
use super::layers as kinds;
use super::rope::{self, Reading};
use super::sizes::Defaults;

const GLOBAL_THETA: f64 = 1_000_000.0;
const LOCAL_THETA: f64 = 10_000.0;

pub(super) static GEMMA3: Architecture = Architecture {
    model_type: "gemma3_text",
    class: "Gemma3ForCausalLM",
    keys: &[
        "_sliding_window_pattern",
        "attention_bias",
        "attn_logit_softcapping",
        "cache_implementation",
        "final_logit_softcapping",
        "hidden_activation",
        "layer_types",
        "query_pre_attn_scalar",
        "rope_local_base_freq",
        "sliding_window",
        "sliding_window_pattern",
        "use_bidirectional_attention",
    ],
    shape: |config| {
        let defaults = Defaults {
            rope: Reading {
                theta: GLOBAL_THETA,
                local: Some(LOCAL_THETA),
                ..rope::PLAIN
            },
            ..DEFAULTS
        };
        let mut shape = gemma2::read(config, &defaults)?;
        shape.form.head_norms = true;
        shape.form.logit_cap = cap(config, "final_logit_softcapping", None)?;
        // transformers does not hand it to attention.
        if config.value("attn_logit_softcapping").is_some() {
            let fault = "`attn_logit_softcapping` is not carried out by Gemma 3; set it to null";
            return Err(ConfigFault::Unsupported(fault.into()));
        }
        let pattern = config.size("sliding_window_pattern")?.unwrap_or(PATTERN);
        let windowed = |layer: usize| !(layer + 1).is_multiple_of(pattern);
        let windowed = kinds::windowed(config, shape.layers, windowed)?;
        let window = kinds::window(config, &windowed, 4096)?;
        shape.form.layers = layers(windowed, window);
        Ok(shape)
    },
    gguf: GgufForm {
        names: &["gemma3"],
        interleaved: false,
        keys: &[
            "attention.sliding_window",
            "attention.sliding_window_pattern",
            "final_logit_softcapping",
            "rope.freq_base_swa",
        ],
        rope: &[RopeForm::Linear],
        untied: true,
        square: false,
        biased: false,
        read: |keys, shape| {
            gemma2::read_gguf(shape, LARGEST_LAYERS);
            let local = keys.positive("rope.freq_base_swa")?;
            shape.form.local_rope_theta = Some(local.unwrap_or(LOCAL_THETA));
            shape.form.head_norms = true;
            shape.form.logit_cap = keys.optional("final_logit_softcapping")?;
            let windowed = gemma2::read_windowed(keys, shape.layers, PATTERN)?;
            shape.form.layers = match keys.size("attention.sliding_window")? {
                Some(window) => layers(windowed, window),
                // Without a window every block has the global rotary embedding.
                None => layers(vec![false; shape.layers], 0),
            };
            Ok(())
        },
        write: |shape| {
            let form = &shape.form;
            let mut keys = gemma2::write_windows(shape, PATTERN);
            let theta = form.local_rope_theta.unwrap_or(LOCAL_THETA);
            keys.push(("rope.freq_base_swa", float(theta)));
            let cap = form.logit_cap;
            keys.extend(cap.map(|cap| ("final_logit_softcapping", float(cap))));
            keys
        },
    },
};

/// The last block of so many has no window, where no key says otherwise.
const PATTERN: usize = 6;
/// Blocks of Gemma 3 27B, by which llama.cpp knows that its scores are scaled otherwise.
const LARGEST_LAYERS: usize = 62;

fn layers(windowed: Vec<bool>, window: usize) -> Vec<LayerForm> {
    let layer = |is_windowed: bool| match is_windowed {
        true => LayerForm {
            window: Some(window),
            rope: LayerRope::Local,
        },
        false => LayerForm {
            window: None,
            rope: LayerRope::Global,
        },
    };
    windowed.into_iter().map(layer).collect()
}
