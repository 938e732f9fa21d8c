//! SmolLM3: every fourth block does not rotate queries and keys.

use qlora_planner::{Activation, LayerForm, LayerRope};

use super::architecture::Architecture;
use super::fault::ConfigFault;
use super::gguf::{GgufForm, RopeForm};
use super::rope::Reading;
use super::sizes::{self, Defaults, KvHeads};

/// Every block of this number does not rotate, where no key has another.
const INTERVAL: usize = 4;

pub(super) static SMOLLM3: Architecture = Architecture {
    model_type: "smollm3",
    class: "SmolLM3ForCausalLM",
    // A window is on only with `use_sliding_window`, which is refused.
    keys: &[
        "attention_bias",
        "mlp_bias",
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
                long: None,
                local: None,
            },
        };
        let mut shape = sizes::read(config, &defaults)?;
        let rotated: Vec<bool> = match config.numbers("no_rope_layers")? {
            // The name misleads: 1 is a block with rotation.
            Some(list) => list
                .iter()
                .map(|&rotates| match rotates {
                    0.0 => Ok(false),
                    1.0 => Ok(true),
                    other => Err(format!(
                        "`no_rope_layers` has {other}, which is neither 0 nor 1"
                    )),
                })
                .collect::<Result<_, _>>()?,
            None => {
                let interval = config.size("no_rope_layer_interval")?.unwrap_or(INTERVAL);
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
        shape.form.layers = rotated.into_iter().map(layer).collect();
        Ok(shape)
    },
    gguf: GgufForm {
        names: &["smollm3"],
        interleaved: true,
        keys: &[],
        rope: &[RopeForm::Linear, RopeForm::Yarn],
        untied: true,
        square: false,
        biased: false,
        read: |_, shape| {
            // No key says so: the graph has this interval.
            let rotates = |block: usize| !(block + 1).is_multiple_of(INTERVAL);
            let blocks = 0..shape.layers;
            shape.form.layers = blocks.map(rotates).map(layer).collect();
            Ok(())
        },
        write: |_| Vec::new(),
    },
};

fn layer(rotates: bool) -> LayerForm {
    let rope = match rotates {
        true => LayerRope::Global,
        false => LayerRope::Absent,
    };
    LayerForm { window: None, rope }
}
