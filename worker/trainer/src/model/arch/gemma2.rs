//! Gemma 2: four norms a block, all of them 1 + w, GeGLU, soft caps, and a window in every other
//! block.

use candle_core::quantized::gguf_file::Value;
use qlora_planner::{Activation, EmbeddingScale, LayerForm, LayerRope, ModelShape};

use super::architecture::Architecture;
use super::fault::ConfigFault;
use super::gguf::{GgufForm, GgufKeys, RopeForm, count, float};
use super::keys::Keys;
use super::sizes::{self, Defaults, KvHeads};
use super::{layers, rope};

pub(super) static GEMMA2: Architecture = Architecture {
    model_type: "gemma2",
    class: "Gemma2ForCausalLM",
    keys: &[
        "attention_bias",
        "attn_logit_softcapping",
        "cache_implementation",
        "final_logit_softcapping",
        "hidden_activation",
        "layer_types",
        "query_pre_attn_scalar",
        "sliding_window",
        "sliding_window_size",
        "use_bidirectional_attention",
    ],
    shape: |config| {
        let mut shape = read(config, &DEFAULTS)?;
        // `null` turns a cap off, no key leaves it on.
        shape.form.score_cap = cap(config, "attn_logit_softcapping", Some(50.0))?;
        shape.form.logit_cap = cap(config, "final_logit_softcapping", Some(30.0))?;
        let windowed = |layer: usize| !(layer + 1).is_multiple_of(PATTERN);
        let windowed = layers::windowed(config, shape.layers, windowed)?;
        let window = layers::window(config, &windowed, 4096)?;
        shape.form.layers = windowed
            .into_iter()
            .map(|is_windowed| LayerForm {
                window: is_windowed.then_some(window),
                rope: LayerRope::Global,
            })
            .collect();
        Ok(shape)
    },
    gguf: GgufForm {
        names: &["gemma2"],
        interleaved: false,
        keys: &[
            "attention.sliding_window",
            "attention.sliding_window_pattern",
            "attn_logit_softcapping",
            "final_logit_softcapping",
        ],
        rope: &[RopeForm::Linear],
        untied: false,
        square: false,
        biased: false,
        read: |keys, shape| {
            read_gguf(shape, LARGEST_LAYERS);
            let form = &mut shape.form;
            // The graph divides by both, so none of them can be turned off.
            form.score_cap = Some(keys.positive("attn_logit_softcapping")?.unwrap_or(50.0));
            form.logit_cap = Some(keys.positive("final_logit_softcapping")?.unwrap_or(30.0));
            const WINDOW: &str = "attention.sliding_window";
            let window = match (keys.value(WINDOW), keys.size(WINDOW)?) {
                (None, _) => 4096,
                (Some(_), Some(window)) => window,
                (Some(_), None) => {
                    let name = keys.name(WINDOW);
                    return Err(format!("`{name}` is 0: a token would not see itself"));
                }
            };
            let windowed = read_windowed(keys, shape.layers, PATTERN)?;
            let layer = |is_windowed: bool| LayerForm {
                window: is_windowed.then_some(window),
                rope: LayerRope::Global,
            };
            shape.form.layers = windowed.into_iter().map(layer).collect();
            Ok(())
        },
        write: |shape| {
            let form = &shape.form;
            let mut keys = write_windows(shape, PATTERN);
            let caps = [
                ("attn_logit_softcapping", form.score_cap),
                ("final_logit_softcapping", form.logit_cap),
            ];
            let given = |(key, number): (_, Option<f64>)| Some((key, float(number?)));
            keys.extend(caps.into_iter().filter_map(given));
            keys
        },
    },
};

/// The last block of so many has no window.
const PATTERN: usize = 2;
/// Blocks of Gemma 2 27B, by which llama.cpp knows that its scores are scaled otherwise.
const LARGEST_LAYERS: usize = 46;

/// What the graphs of Gemma 2 and 3 have in common; `largest` is the number of blocks of the model
/// whose scores are scaled by the hidden size.
pub(super) fn read_gguf(shape: &mut ModelShape, largest: usize) {
    let width = if shape.layers == largest {
        shape.hidden / shape.heads
    } else {
        shape.head_dim
    };
    let form = &mut shape.form;
    form.activation = Activation::GeluTanh;
    form.embedding_scale = Some(EmbeddingScale::RootOfHidden);
    form.norms_after = true;
    form.unit_offset = true;
    form.score_scale = Some(1.0 / (width as f64).sqrt());
}

/// Whether each of `count` blocks has a window.
pub(super) fn read_windowed(
    keys: &GgufKeys<'_>,
    count: usize,
    default: usize,
) -> Result<Vec<bool>, String> {
    const KEY: &str = "attention.sliding_window_pattern";
    if let Some(flags) = keys.flags(KEY, count)? {
        return Ok(flags);
    }
    let windowed = match (keys.value(KEY), keys.size(KEY)?) {
        // 0: every block has one.
        (Some(_), None) => vec![true; count],
        (_, pattern) => by_pattern(count, pattern.unwrap_or(default)),
    };
    Ok(windowed)
}

fn by_pattern(count: usize, pattern: usize) -> Vec<bool> {
    (0..count)
        .map(|layer| !(layer + 1).is_multiple_of(pattern))
        .collect()
}

/// The window, and which blocks have it where those are not all but the last of each `default`.
pub(super) fn write_windows(shape: &ModelShape, default: usize) -> Vec<(&'static str, Value)> {
    let windows = || shape.form.layers.iter().map(|layer| layer.window);
    let window = windows().flatten().next();
    let mut keys: Vec<_> = window
        .map(|window| ("attention.sliding_window", count(window)))
        .into_iter()
        .collect();
    let windowed: Vec<bool> = windows().map(|window| window.is_some()).collect();
    if windowed != by_pattern(shape.layers, default) {
        let flags = windowed.into_iter().map(Value::Bool).collect();
        keys.push(("attention.sliding_window_pattern", Value::Array(flags)));
    }
    keys
}

/// Those of Gemma 2 and 3.
pub(super) const DEFAULTS: Defaults = Defaults {
    kv_heads: KvHeads::Required,
    head_dim: Some(256),
    tied_embeddings: true,
    norm_epsilon: Some(1e-6),
    activation: ("hidden_activation", Activation::GeluTanh),
    rope: rope::PLAIN,
};

/// What Gemma 2 and 3 have in common.
pub(super) fn read(config: &Keys<'_>, defaults: &Defaults) -> Result<ModelShape, ConfigFault> {
    if config.flag("use_bidirectional_attention")? == Some(true) {
        return Err(ConfigFault::Unsupported(
            "`use_bidirectional_attention: true` is not implemented".into(),
        ));
    }
    let mut shape = sizes::read(config, defaults)?;
    let scalar = config.number("query_pre_attn_scalar")?.unwrap_or(256.0);
    let form = &mut shape.form;
    form.norms_after = true;
    form.unit_offset = true;
    form.embedding_scale = Some(EmbeddingScale::RootOfHidden);
    form.score_scale = Some(scalar.powf(-0.5));
    Ok(shape)
}

/// The soft cap of `key`.
pub(super) fn cap(
    config: &Keys<'_>,
    key: &str,
    default: Option<f64>,
) -> Result<Option<f64>, String> {
    if config.has(key) {
        config.number(key)
    } else {
        Ok(default)
    }
}
