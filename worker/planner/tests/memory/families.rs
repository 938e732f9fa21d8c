//! What sets a family apart, one property at a time: the bytes by which plans of two models differ
//! that have only this between them.

use qlora_config::DeviceKind::{self, Cpu, Cuda, Metal};
use qlora_planner::{
    Activation, EmbeddingScale, LayerForm, LayerRope, LowMemory, MemoryPlan, MemoryPolicy,
    ModelShape, SavedActivations, estimate, on_host,
};

use crate::fixture::{MIB, config, mistral};

const TOKENS: u64 = 2048;
const BLOCKS: u64 = 32;

fn with(change: impl FnOnce(&mut ModelShape)) -> ModelShape {
    let mut shape = mistral();
    change(&mut shape);
    shape
}

/// The plan of a run that saves `saved` of every block, with few rows of logits, so that a block
/// and not the loss is what takes most.
fn planned(shape: &ModelShape, kind: DeviceKind, saved: SavedActivations) -> MemoryPlan {
    let policy = MemoryPolicy {
        low_memory: LowMemory::FewLogits,
        saved: vec![saved; shape.layers],
        dequantized: 0,
    };
    estimate(shape, &config(TOKENS as usize, &[]), kind, &policy)
}

/// By how much more than Mistral's a model's blocks work with, and save, where `saved` of them is
/// saved; every other part is alike.
#[track_caller]
fn more(shape: &ModelShape, kind: DeviceKind, saved: SavedActivations) -> (u64, u64) {
    let (plain, other) = (
        planned(&mistral(), kind, saved),
        planned(shape, kind, saved),
    );
    let rest = |plan: &MemoryPlan| (plan.weights, plan.adapters, plan.overhead);
    assert_eq!(rest(&plain), rest(&other));
    (
        other.scratch - plain.scratch,
        other.activations - plain.activations,
    )
}

#[test]
fn norms_over_heads_hold_queries_and_keys_once_more() {
    let shape = with(|shape| shape.form.head_norms = true);
    assert_eq!(
        shape.parameters() - mistral().parameters(),
        32 * 2 * 128,
        "a factor of queries and one of keys"
    );
    // Of the block at work, 32 and 8 heads of 128.
    let elements = 40 * 128;
    let saved = SavedActivations::Input;
    assert_eq!(more(&shape, Cuda, saved), (TOKENS * 2 * elements, 0));
    assert_eq!(more(&shape, Cpu, saved), (TOKENS * 4 * elements, 0));
    // 20 MiB, in a buffer of a power of two.
    assert_eq!(more(&shape, Metal, saved), (32 * MIB, 0));
}

#[test]
fn norms_that_follow_save_what_they_read() {
    let shape = with(|shape| shape.form.norms_after = true);
    assert_eq!(
        shape.parameters() - mistral().parameters(),
        32 * 2 * 4096,
        "two norms more in each block"
    );
    // What goes into both norms, and what the feed-forward layer gave.
    let saved = SavedActivations::Input;
    assert_eq!(more(&shape, Cuda, saved), (TOKENS * 2 * 3 * 4096, 0));
    assert_eq!(more(&shape, Cpu, saved), (TOKENS * 4 * 3 * 4096, 0));
    // The last is saved with all of a block, and the block at work does not hold it twice.
    let saved = SavedActivations::All;
    let saves = BLOCKS * TOKENS * 2 * 4096;
    assert_eq!(
        more(&shape, Cuda, saved),
        (TOKENS * 2 * 2 * 4096, saves),
        "of each of 32 blocks"
    );
}

#[test]
fn fused_layers_are_held_beside_their_parts_and_share_adapters() {
    let (plain, fused) = (mistral(), with(|shape| shape.form.fused = true));
    assert_eq!(plain.parameters(), fused.parameters());
    let saved = SavedActivations::Input;
    let (plain, fused) = (planned(&plain, Cuda, saved), planned(&fused, Cuda, saved));
    assert_eq!(plain.weights, fused.weights);
    // The output of gate and up, 2 F; and the largest matrix, dequantized, and the next one, are
    // twice D x F.
    let larger = 2 * 2 * (4096 * 14_336);
    assert_eq!(
        fused.scratch - plain.scratch,
        TOKENS * 2 * 2 * 14_336 + larger
    );
    // A of queries, of keys and of values, 16 x 4,096 each, is one; a parameter takes 16 bytes with
    // its gradient and two moments.
    assert_eq!(plain.adapters - fused.adapters, 16 * BLOCKS * 2 * 16 * 4096);
    // Two inner results of rank 16 are saved in place of four, in bf16.
    assert_eq!(
        plain.activations - fused.activations,
        BLOCKS * TOKENS * 2 * 2 * 16
    );
}

#[test]
fn a_tied_head_is_the_embedding_and_stays_on_the_device() {
    let tied = with(|shape| shape.tied_embeddings = true);
    // V x D in bf16.
    let table = 256 * MIB;
    let weights = |shape: &ModelShape, low_memory| {
        let policy = MemoryPolicy {
            low_memory,
            saved: vec![SavedActivations::Input; shape.layers],
            dequantized: 0,
        };
        estimate(shape, &config(TOKENS as usize, &[]), Cuda, &policy).weights
    };
    use LowMemory::{FewLogits, HostEmbedding};
    let both = weights(&mistral(), FewLogits);
    assert_eq!(both - weights(&tied, FewLogits), table);
    assert_eq!(both - weights(&mistral(), HostEmbedding), table);
    assert_eq!(weights(&tied, HostEmbedding), weights(&tied, FewLogits));
    let config = config(TOKENS as usize, &[]);
    assert_eq!(on_host(&mistral(), &config), table);
    assert_eq!(on_host(&tied, &config), 0);
}

/// GeGLU, scales and caps take the place of what they are in place of, and a window hides scores
/// that flash attention does not hold.
#[test]
fn what_changes_only_numbers_takes_no_memory() {
    let windows = |shape: &mut ModelShape| {
        let layer = |layer: usize| LayerForm {
            window: layer.is_multiple_of(2).then_some(512),
            rope: LayerRope::Global,
        };
        shape.form.layers = (0..shape.layers).map(layer).collect();
    };
    for shape in [
        with(|shape| shape.form.activation = Activation::GeluTanh),
        with(|shape| shape.form.embedding_scale = Some(EmbeddingScale::RootOfHidden)),
        with(|shape| shape.form.score_cap = Some(50.0)),
        with(|shape| shape.form.logit_cap = Some(30.0)),
        with(|shape| shape.sliding_window = Some(512)),
        with(windows),
    ] {
        for saved in [SavedActivations::Input, SavedActivations::All] {
            for kind in [Cuda, Cpu, Metal] {
                assert_eq!(more(&shape, kind, saved), (0, 0), "{kind} {:?}", shape.form);
            }
        }
    }
}
