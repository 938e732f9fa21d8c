//! The tables that tell the blocks of attention what they own.

use candle_core::{Device, Tensor};

use crate::Result;
use crate::types::sequences::Span;

/// Queries or keys that a block owns.
pub(super) const OWN: usize = 128;

/// What the blocks own, on the GPU.
pub(super) struct Tiles {
    /// Four numbers a block of queries.
    pub queries: Tensor,
    /// Six numbers a block of keys.
    pub keys: Tensor,
    /// Position of every row.
    pub positions: Tensor,
    pub counts: (usize, usize),
}

impl Tiles {
    /// Long sequences come first, and in each what sees most: a block that begins late should end
    /// soon.
    pub fn new(spans: &[Span], positions: &[u32], device: &Device) -> Result<Self> {
        let (mut queries, mut keys) = (Vec::new(), Vec::new());
        let mut order: Vec<&Span> = spans.iter().collect();
        order.sort_by_key(|span| std::cmp::Reverse(span.k.len()));
        for span in order {
            let shift = span.k.len() - span.q.len();
            for first in (0..span.q.len()).step_by(OWN).rev() {
                let count = OWN.min(span.q.len() - first);
                queries.extend(
                    [span.q.start + first, count, span.k.start, shift + first + 1]
                        .map(|n| n as u32),
                );
            }
            for first in (0..span.k.len()).step_by(OWN) {
                let count = OWN.min(span.k.len() - first);
                let numbers = [
                    span.k.start + first,
                    count,
                    first,
                    span.q.start,
                    span.q.len(),
                    shift,
                ];
                keys.extend(numbers.map(|n| n as u32));
            }
        }
        let counts = (queries.len() / 4, keys.len() / 6);
        let table = |numbers: Vec<u32>| {
            let length = numbers.len();
            Tensor::from_vec(numbers, length, device)
        };
        Ok(Self {
            queries: table(queries)?,
            keys: table(keys)?,
            positions: Tensor::new(positions, device)?,
            counts,
        })
    }
}
