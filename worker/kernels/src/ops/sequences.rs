//! The sequences that are packed into one micro-batch, and where their tokens stand: on the processor, and in the form
//! that kernels read on the device that computes.

use std::ops::Range;

use candle_core::Device;

use crate::Result;
#[cfg(feature = "cuda")]
use crate::cuda::attention::Tiles;

/// One sequence: where its queries and its keys lie. The last query sees the last key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub q: Range<usize>,
    pub k: Range<usize>,
}

impl Span {
    /// Spans of sequences of the given lengths, packed one after another.
    pub fn packed(lengths: &[usize]) -> Vec<Span> {
        let mut start = 0;
        let span = |&len: &usize| {
            let range = start..start + len;
            start += len;
            Span { q: range.clone(), k: range }
        };
        lengths.iter().map(span).collect()
    }

    /// Keys, counted from the span's first, that query `i` of the span sees.
    pub fn visible(&self, i: usize, window: Option<usize>) -> Range<usize> {
        let end = self.k.len() - self.q.len() + i + 1;
        let start = window.map_or(0, |w| end.saturating_sub(w));
        start..end
    }

    /// Position of every query within its sequence.
    fn positions(&self) -> impl Iterator<Item = u32> {
        (self.k.len() - self.q.len()..self.k.len()).map(|position| position as u32)
    }
}

/// Sequences of one pass, whose queries are its rows from the first to the last.
pub struct Sequences {
    spans: Vec<Span>,
    positions: Vec<u32>,
    #[cfg(feature = "cuda")]
    tiles: Option<Tiles>,
}

impl Sequences {
    /// # Errors
    /// The device does not take them.
    pub fn new(spans: &[Span], device: &Device) -> Result<Self> {
        let positions: Vec<u32> = spans.iter().flat_map(Span::positions).collect();
        #[cfg(not(feature = "cuda"))]
        let _ = device;
        Ok(Self {
            #[cfg(feature = "cuda")]
            tiles: device.is_cuda().then(|| Tiles::new(spans, &positions, device)).transpose()?,
            spans: spans.to_vec(),
            positions,
        })
    }

    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Position of each row within its own sequence.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// What kernels of CUDA read; none on another device.
    #[cfg(feature = "cuda")]
    pub(crate) fn tiles(&self) -> Option<&Tiles> {
        self.tiles.as_ref()
    }
}
