//! SmolLM3: every fourth block does not rotate queries and keys.

use qlora_planner::{Activation, LayerForm, LayerRope};

use super::rope::Reading;
use super::sizes::{self, Defaults, KvHeads};
use super::{Architecture, ConfigFault};

pub(super) static SMOLLM3: Architecture = Architecture {
    model_type: "smollm3",
    class: "SmolLM3ForCausalLM",
    // A window is on only with `use_sliding_window`, which is refused.
    keys: &[
        "no_rope_layers",
        "no_rope_layer_interval",
        "sliding_window",
        "max_window_layers",
    ],
    shape: |config| {
        let defaults = Defaults {
            kv_heads: KvHeads::Required,
            head_dim: None,
            tied_embeddings: true,
            norm_epsilon: None,
            activation: ("hidden_act", Activation::Silu),
            rope: Reading {
                theta: 2_000_000.0,
                partial: false,
                long: false,
            },
        };
        let mut shape = sizes::read(config, &defaults)?;
        let rotated: Vec<bool> = match config.numbers("no_rope_layers")? {
            // The name misleads: 1 is a block with rotation.
            Some(list) => list.iter().map(|&rotates| rotates != 0.0).collect(),
            None => {
                let interval = config.size("no_rope_layer_interval")?.unwrap_or(4);
                (0..shape.layers)
                    .map(|layer| !(layer + 1).is_multiple_of(interval))
                    .collect()
            }
        };
        if rotated.len() != shape.layers {
            let (given, layers) = (rotated.len(), shape.layers);
            let fault = format!("`no_rope_layers` is of {given} blocks, the model has {layers}");
            return Err(ConfigFault::Broken(fault));
        }
        let layer = |rotates: bool| LayerForm {
            window: None,
            rope: if rotates {
                LayerRope::Global
            } else {
                LayerRope::Absent
            },
        };
        shape.form.layers = rotated.into_iter().map(layer).collect();
        Ok(shape)
    },
};
