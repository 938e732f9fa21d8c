//! Gemma 2: four norms a block, all of them 1 + w, GeGLU, soft caps, and a window in every other
//! block.

use qlora_planner::{Activation, EmbeddingScale, LayerForm, LayerRope, ModelShape};

use super::keys::Keys;
use super::sizes::{self, Defaults, KvHeads};
use super::{Architecture, ConfigFault, layers, rope};

pub(super) static GEMMA2: Architecture = Architecture {
    model_type: "gemma2",
    class: "Gemma2ForCausalLM",
    keys: &[
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
        let windowed = |layer: usize| layer.is_multiple_of(2);
        let windowed = layers::windowed(config, shape.layers, windowed)?;
        let window = config.size("sliding_window")?.unwrap_or(4096);
        shape.form.layers = windowed
            .into_iter()
            .map(|is_windowed| LayerForm {
                window: is_windowed.then_some(window),
                rope: LayerRope::Global,
            })
            .collect();
        Ok(shape)
    },
};

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
