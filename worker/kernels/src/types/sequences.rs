//! The sequences that are packed into one micro-batch, and where their tokens stand.

use std::any::Any;
use std::ops::Range;

use crate::Result;

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
            Span {
                q: range.clone(),
                k: range,
            }
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
    tables: Option<Box<dyn Any + Send + Sync>>,
}

impl Sequences {
    /// # Errors
    /// There is no sequence, or one has no token or fewer keys than queries.
    pub(crate) fn new(spans: &[Span]) -> Result<Self> {
        if spans.is_empty() {
            candle_core::bail!("a pass has no sequence");
        }
        if let Some(i) = spans.iter().position(|span| span.q.is_empty()) {
            candle_core::bail!("sequence {i} of a pass has no token");
        }
        if let Some(i) = spans.iter().position(|s| s.k.len() < s.q.len()) {
            candle_core::bail!("sequence {i} of a pass has fewer keys than queries");
        }
        let positions = spans.iter().flat_map(Span::positions).collect();
        Ok(Self {
            spans: spans.to_vec(),
            positions,
            tables: None,
        })
    }

    /// With what the backend that they are made for reads besides.
    pub fn with_tables(self, tables: impl Any + Send + Sync) -> Self {
        Self {
            tables: Some(Box::new(tables)),
            ..self
        }
    }

    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Position of each row within its own sequence.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// What a backend has put beside them.
    ///
    /// # Errors
    /// They were made by another backend.
    pub fn tables<T: 'static>(&self) -> Result<&T> {
        match self
            .tables
            .as_ref()
            .and_then(|tables| tables.downcast_ref())
        {
            Some(tables) => Ok(tables),
            None => candle_core::bail!("these sequences were made by another backend"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_without_a_token_is_refused_and_not_computed_with() {
        for (lengths, told) in [
            (&[][..], "no sequence"),
            (&[0], "sequence 0 of a pass has no token"),
            (&[3, 0, 2], "sequence 1 of a pass has no token"),
        ] {
            let fault = Sequences::new(&Span::packed(lengths)).map(drop);
            let fault = fault.expect_err("a refusal").to_string();
            assert!(fault.contains(told), "{lengths:?}: {fault}");
        }
        let short = Span { q: 0..3, k: 0..2 };
        assert!(Sequences::new(&[short]).is_err());
        let ahead = Span { q: 0..1, k: 0..9 };
        let whole = Sequences::new(&[ahead]).expect("a sequence");
        assert_eq!(whole.positions(), [8]);
    }
}
