//! Dropout whose mask is a function of (seed, step, projection, element) and of nothing else.
//!
//! A block that is computed again, a run that is resumed, micro-batches that are split differently
//! and another device all draw the same mask. The generator is Philox4x32-10 (Salmon et al.,
//! "Parallel random numbers: as easy as 1, 2, 3", SC 2011); one call yields eight 16-bit numbers
//! for eight neighboring elements.

/// Names one mask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DropoutKey {
    pub seed: u64,
    /// Optimizer step.
    pub step: u32,
    /// A number of its own for each projection of each layer.
    pub projection: u32,
    /// Index, within the step, of the first row.
    pub first_token: u64,
    pub probability: f64,
}

impl DropoutKey {
    /// An element is dropped where its 16 random bits are below this.
    pub fn threshold(&self) -> u32 {
        (self.probability * 65_536.0).round() as u32
    }

    /// What the elements that stay are multiplied with.
    pub fn kept(&self) -> f32 {
        (1.0 / (1.0 - self.probability)) as f32
    }
}
