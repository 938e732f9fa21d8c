//! The order in which samples are learnt from: a seeded shuffle of every epoch, and a cursor to resume at.

use serde::{Deserialize, Serialize};

/// Where a run stands in its data; part of every checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cursor {
    pub epoch: u64,
    /// Samples of the epoch that have been handed out.
    pub position: usize,
}

/// Hands out indices of samples; each epoch holds every sample once, in an order of its own.
#[derive(Debug, Clone)]
pub struct Sampler {
    seed: u64,
    samples: usize,
    cursor: Cursor,
    order: Vec<usize>,
}

impl Sampler {
    /// A sampler over `samples` samples that goes on at `cursor`.
    ///
    /// # Panics
    /// There are no samples.
    pub fn new(seed: u64, samples: usize, cursor: Cursor) -> Self {
        assert!(samples > 0, "a sampler needs samples");
        Self { seed, samples, cursor, order: shuffled(seed, cursor.epoch, samples) }
    }

    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// The next `n` indices; may run over the end of an epoch.
    pub fn take(&mut self, n: usize) -> Vec<usize> {
        (0..n).map(|_| self.next_index()).collect()
    }

    fn next_index(&mut self) -> usize {
        if self.cursor.position == self.samples {
            self.cursor = Cursor { epoch: self.cursor.epoch + 1, position: 0 };
            self.order = shuffled(self.seed, self.cursor.epoch, self.samples);
        }
        let index = self.order[self.cursor.position];
        self.cursor.position += 1;
        index
    }
}

/// Fisher-Yates over SplitMix64 (Steele, Lea and Flood, 2014), seeded by run and epoch.
fn shuffled(seed: u64, epoch: u64, n: usize) -> Vec<usize> {
    let mut state = seed ^ epoch.wrapping_mul(0xD1B5_4A32_D192_ED03);
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        let j = ((u128::from(next()) * (i as u128 + 1)) >> 64) as usize;
        order.swap(i, j);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_holds_every_sample_once_and_epochs_differ() {
        let mut sampler = Sampler::new(1, 50, Cursor::default());
        let (first, second) = (sampler.take(50), sampler.take(50));
        for epoch in [&first, &second] {
            let mut sorted = epoch.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..50).collect::<Vec<_>>());
        }
        assert_ne!(first, second);
    }

    #[test]
    fn a_cursor_resumes_anywhere_even_at_the_end_of_an_epoch() {
        let mut whole = Sampler::new(9, 7, Cursor::default());
        let all = whole.take(21);
        for stop in 0..21 {
            let mut first = Sampler::new(9, 7, Cursor::default());
            first.take(stop);
            let mut rest = Sampler::new(9, 7, first.cursor());
            assert_eq!(rest.take(21 - stop), all[stop..]);
        }
    }
}
