//! What a run uploads to a Mac's GPU while it is at work: masks that the CPU draws, in `f32`.
//!
//! candle takes a new buffer for every upload and frees it only where it waits for the GPU, so
//! uploads pile up between waits. The trainer counts them by the functions below and waits at
//! [`BOUND`].

use qlora_config::{LoraConfig, TargetModule, TrainingConfig};

use crate::shape::ModelShape;

/// Bytes of uploads at which a run waits, between two blocks.
pub const BOUND: u64 = 256 << 20;

/// Bytes of an element of a mask.
const ELEMENT: usize = 4;

/// Tokens of a sequence that are computed at one time, and those that they may attend to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    pub queries: usize,
    pub keys: usize,
}

/// Bytes that the forward pass of a block uploads; `lora` where its dropout is in effect.
pub fn forward(shape: &ModelShape, lora: Option<&LoraConfig>, sequences: &[Sequence]) -> u64 {
    attention_masks(sequences) + lora.map_or(0, |lora| dropout_masks(shape, lora, sequences, |_| 1))
}

/// Bytes that the backward pass of a block uploads at the most, the forward pass that it repeats
/// among them.
pub fn backward(shape: &ModelShape, lora: &LoraConfig, sequences: &[Sequence]) -> u64 {
    // The gradient of A and that of the input draw the mask each; where u is not kept, it is drawn
    // for u as well.
    // A norm after the feed-forward layer needs what the down projection gave once more.
    let again = usize::from(shape.form.norms_after);
    let times = |module| {
        if module == TargetModule::DownProj {
            3 + again
        } else if lora.dora {
            3
        } else {
            2
        }
    };
    2 * attention_masks(sequences) + dropout_masks(shape, lora, sequences, times)
}

/// Bytes that are there at one time at the most, for full sequences.
pub(crate) fn peak(shape: &ModelShape, config: &TrainingConfig) -> u64 {
    let length = config.data.max_seq_len;
    let sequences = vec![
        Sequence {
            queries: length,
            keys: length
        };
        config.training.micro_batch_size
    ];
    let of_block = backward(shape, &config.lora, &sequences);
    (of_block * shape.layers as u64).min(BOUND + of_block)
}

fn attention_masks(sequences: &[Sequence]) -> u64 {
    sequences
        .iter()
        .map(|sequence| (sequence.queries * sequence.keys * ELEMENT) as u64)
        .sum()
}

/// Masks of the inputs of all adapters of a block, each drawn so many `times`.
fn dropout_masks(
    shape: &ModelShape,
    lora: &LoraConfig,
    sequences: &[Sequence],
    times: impl Fn(TargetModule) -> usize,
) -> u64 {
    if lora.dropout == 0.0 {
        return 0;
    }
    let tokens: usize = sequences.iter().map(|sequence| sequence.queries).sum();
    let widths: usize = shape
        .targets(lora)
        .into_iter()
        .map(|module| times(module) * shape.projection(module).1)
        .sum();
    (tokens * widths * ELEMENT) as u64
}

#[cfg(test)]
pub(crate) mod tests {
    use qlora_testkit::resolved;

    use super::*;
    use crate::find;

    const MIB: u64 = 1 << 20;

    fn llama() -> ModelShape {
        find("llama-3.1-8b-instruct")
            .expect("an entry of the catalogue")
            .shape
    }

    /// The configuration of a Mac's preset with `set`.
    pub(crate) fn config(set: &[&str]) -> TrainingConfig {
        let common = [
            "model.base=llama-3.1-8b-instruct",
            "model.quantization=nf4",
            "data.train=rows.jsonl",
            "data.max_seq_len=1024",
            "training.micro_batch_size=1",
            "lora.dropout=0.05",
            "lora.target_modules=[q_proj,k_proj,v_proj,o_proj]",
        ];
        resolved(&common, set).config().clone()
    }

    /// Two passes over one block with an adapter on `module` alone, for one sequence of `tokens`.
    fn passes(set: &[&str], tokens: usize) -> (u64, u64) {
        let (shape, lora) = (llama(), config(set).lora);
        let sequences = [Sequence {
            queries: tokens,
            keys: tokens,
        }];
        (
            forward(&shape, Some(&lora), &sequences),
            backward(&shape, &lora, &sequences),
        )
    }

    #[test]
    fn masks_of_adapters_and_of_attention_are_counted() {
        // 1,024 x 4,096 elements in f32 are 16 MiB, 1,024 x 1,024 are 4 MiB.
        assert_eq!(
            passes(&[], 1024),
            (4 * 16 * MIB + 4 * MIB, 8 * 16 * MIB + 8 * MIB)
        );
        assert_eq!(passes(&["lora.dropout=0"], 1024), (4 * MIB, 8 * MIB));
        assert_eq!(passes(&["lora.dora=true"], 1024).1, 12 * 16 * MIB + 8 * MIB);
        let down = ["lora.target_modules=[down_proj]"];
        assert_eq!(passes(&down, 512), (28 * MIB + MIB, 3 * 28 * MIB + 2 * MIB));
    }

    #[test]
    fn without_training_only_attention_has_masks() {
        let (shape, prompt, token) = (llama(), (300, 300), (1, 301));
        for (queries, keys) in [prompt, token] {
            let bytes = forward(&shape, None, &[Sequence { queries, keys }]);
            assert_eq!(bytes, 4 * (queries * keys) as u64);
        }
    }

    #[test]
    fn packed_sequences_have_masks_of_their_own() {
        let (shape, lora) = (llama(), config(&["lora.dropout=0"]).lora);
        let two = [Sequence {
            queries: 512,
            keys: 512,
        }; 2];
        assert_eq!(forward(&shape, Some(&lora), &two), 2 * MIB);
    }

    #[test]
    fn the_pile_is_bounded_however_many_blocks_there_are() {
        let config = config(&[]);
        let of_block = 8 * 16 * MIB + 8 * MIB;
        assert_eq!(peak(&llama(), &config), BOUND + of_block);
        assert_eq!(
            peak(
                &ModelShape {
                    layers: 1,
                    ..llama()
                },
                &config
            ),
            of_block
        );
        assert_eq!(
            peak(
                &ModelShape {
                    layers: 640,
                    ..llama()
                },
                &config
            ),
            BOUND + of_block
        );
    }
}
