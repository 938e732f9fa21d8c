//! What a backend is opened for.

use crate::types::attention::AttentionShape;

/// Element type of products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compute {
    /// bf16 where that is the faster of the two.
    #[default]
    Auto,
    Bf16,
    /// `f32` on a CPU; on a GPU the element type of its activations, by candle's products.
    F32,
}

/// Which attention is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WantedAttention {
    /// The fastest that there is.
    Fastest,
    /// The fastest, but one whose memory grows with the length of a sequence and not with its
    /// square.
    Flash,
    /// One whose sums have a fixed order: a step repeats bit for bit.
    #[default]
    Repeatable,
    Cudnn,
}

/// The attention of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionOptions {
    /// Of every layer, but for the window: each call has that of its layer. With a window where any
    /// layer has one.
    pub shape: AttentionShape,
    pub wanted: WantedAttention,
    /// Tokens of the longest sequence.
    pub length: usize,
}

/// The adapters of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoraOptions {
    /// R.
    pub rank: usize,
    /// Widths of the inputs that have adapters.
    pub widths: [usize; 3],
}

/// What a backend is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    pub compute: Compute,
    /// None where the caller computes no attention, or takes what every backend has.
    pub attention: Option<AttentionOptions>,
    /// None where there are no adapters.
    pub lora: Option<LoraOptions>,
}
