//! A micro-batch: packed sequences, and what of them is trained on.

use qlora_data::{IGNORE, Sample};
use qlora_kernels::Span;

/// Sequences packed one after another, without padding; M tokens in all.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    pub ids: Vec<u32>,
    pub spans: Vec<Span>,
    /// Rows whose next token is trained on, and that token.
    pub rows: Vec<u32>,
    pub targets: Vec<u32>,
}

impl Batch {
    /// Packs `samples`; the label of a token is predicted at the row before it.
    pub fn pack<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Self {
        let mut batch = Self {
            ids: vec![],
            spans: vec![],
            rows: vec![],
            targets: vec![],
        };
        let mut lengths = Vec::new();
        for sample in samples {
            let start = batch.ids.len() as u32;
            batch.ids.extend(&sample.ids);
            lengths.push(sample.ids.len());
            for (i, &label) in sample
                .labels
                .iter()
                .enumerate()
                .skip(1)
                .filter(|&(_, &label)| label != IGNORE)
            {
                batch.rows.push(start + i as u32 - 1);
                batch.targets.push(label as u32);
            }
        }
        batch.spans = Span::packed(&lengths);
        batch
    }

    /// One sequence of `ids` that is not trained on.
    pub(crate) fn plain(ids: &[u32]) -> Self {
        Self {
            ids: ids.to_vec(),
            spans: Span::packed(&[ids.len()]),
            rows: vec![],
            targets: vec![],
        }
    }

    pub fn tokens(&self) -> usize {
        self.ids.len()
    }
}
