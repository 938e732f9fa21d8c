//! What a pass through the blocks uploads to a Mac's GPU, and when to wait so that it stays
//! bounded.

use candle_core::Device;
use qlora_config::LoraConfig;
use qlora_kernels::Span;
use qlora_planner::ModelShape;
use qlora_planner::uploads::{self, Sequence};

use super::wait;
use crate::Result;

/// Uploads of one pass through the blocks, which candle keeps until it waits for the GPU.
pub(crate) struct Uploads<'a> {
    device: &'a Device,
    pile: Pile,
}

impl<'a> Uploads<'a> {
    /// Begins a forward pass, with no upload left from before; `lora` where its dropout is in
    /// effect.
    pub fn forward(
        device: &'a Device,
        shape: &ModelShape,
        lora: Option<&LoraConfig>,
        spans: &[Span],
    ) -> Result<Self> {
        Self::begin(device, uploads::forward(shape, lora, &sequences(spans)))
    }

    /// Begins the backward pass.
    pub fn backward(
        device: &'a Device,
        shape: &ModelShape,
        lora: &LoraConfig,
        spans: &[Span],
    ) -> Result<Self> {
        Self::begin(device, uploads::backward(shape, lora, &sequences(spans)))
    }

    fn begin(device: &'a Device, of_block: u64) -> Result<Self> {
        wait(device)?;
        Ok(Self {
            device,
            pile: Pile { of_block, bytes: 0 },
        })
    }

    /// A block has been given to the GPU.
    pub fn after_block(&mut self) -> Result<()> {
        if self.pile.is_high() {
            wait(self.device)
        } else {
            Ok(())
        }
    }
}

/// Lengths of the sequences that `spans` are.
fn sequences(spans: &[Span]) -> Vec<Sequence> {
    spans
        .iter()
        .map(|span| Sequence {
            queries: span.q.len(),
            keys: span.k.len(),
        })
        .collect()
}

/// How many bytes have been uploaded since the last wait.
struct Pile {
    of_block: u64,
    bytes: u64,
}

impl Pile {
    /// Adds a block's; true where they reach the bound, and then the caller waits and the pile
    /// begins anew.
    fn is_high(&mut self) -> bool {
        self.bytes += self.of_block;
        let high = self.bytes >= uploads::BOUND;
        if high {
            self.bytes = 0;
        }
        high
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_never_exceed_the_bound_by_more_than_a_block() {
        for of_block in [
            1,
            3 << 20,
            uploads::BOUND / 3,
            uploads::BOUND - 1,
            uploads::BOUND,
            5 * uploads::BOUND,
        ] {
            let (mut pile, mut there, mut waits) = (Pile { of_block, bytes: 0 }, 0, 0);
            for _ in 0..64 {
                there += of_block;
                assert!(
                    there < uploads::BOUND + of_block,
                    "{there} with {of_block} a block"
                );
                if pile.is_high() {
                    (there, waits) = (0, waits + 1);
                }
            }
            assert_eq!(
                waits,
                64 / uploads::BOUND.div_ceil(of_block),
                "{of_block} a block"
            );
        }
    }
}
