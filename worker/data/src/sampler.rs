//! Which samples make up each micro-batch: a plan for every epoch by the run's seed, and a cursor
//! to resume at.

use serde::{Deserialize, Serialize};

use crate::packing::best_fit;
use crate::random::SplitMix64;

/// Micro-batches that are sorted by length together, where samples are grouped by length.
const WINDOW: usize = 50;

/// How samples are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batching {
    /// So many samples at random.
    Shuffled { samples: usize },
    /// So many samples of similar length, the groups in random order.
    Grouped { samples: usize },
    /// As many samples as fit into so many tokens, the packs in random order.
    Packed { tokens: usize },
}

/// Where a run stands in its data; part of every checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cursor {
    pub epoch: u64,
    /// Micro-batches of the epoch that have been handed out.
    pub position: usize,
}

/// Hands out micro-batches as indices of samples; each epoch holds every sample once, in an order
/// of its own.
#[derive(Debug, Clone)]
pub struct Sampler {
    seed: u64,
    batching: Batching,
    lengths: Vec<usize>,
    cursor: Cursor,
    plan: Vec<Vec<usize>>,
}

impl Sampler {
    /// A sampler over samples of `lengths` tokens that goes on at `cursor`.
    ///
    /// # Panics
    /// There are no samples, or a micro-batch is to hold none.
    pub fn new(seed: u64, lengths: Vec<usize>, batching: Batching, cursor: Cursor) -> Self {
        assert!(!lengths.is_empty(), "a sampler needs samples");
        let plan = plan(seed, cursor.epoch, &lengths, batching);
        Self {
            seed,
            batching,
            lengths,
            cursor,
            plan,
        }
    }

    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Micro-batches of an epoch: of every one as many.
    pub fn batches(&self) -> usize {
        self.plan.len()
    }

    /// The micro-batches of the next step: `most`, or as many as the epoch still has. A step never
    /// goes on into the next epoch, so an epoch is every sample once, however many micro-batches a
    /// step has.
    pub fn next_step(&mut self, most: usize) -> Vec<Vec<usize>> {
        let mut step = vec![self.next_batch().to_vec()];
        while step.len() < most && self.cursor.position < self.plan.len() {
            step.push(self.next_batch().to_vec());
        }
        step
    }

    /// The samples of the next micro-batch.
    fn next_batch(&mut self) -> &[usize] {
        if self.cursor.position == self.plan.len() {
            self.cursor = Cursor {
                epoch: self.cursor.epoch + 1,
                position: 0,
            };
            self.plan = plan(self.seed, self.cursor.epoch, &self.lengths, self.batching);
        }
        self.cursor.position += 1;
        &self.plan[self.cursor.position - 1]
    }
}

/// The micro-batches of one epoch.
fn plan(seed: u64, epoch: u64, lengths: &[usize], batching: Batching) -> Vec<Vec<usize>> {
    let mut random = SplitMix64::keyed(seed, epoch);
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    match batching {
        Batching::Shuffled { samples } => {
            random.shuffle(&mut order);
            order.chunks(samples).map(<[usize]>::to_vec).collect()
        }
        Batching::Grouped { samples } => {
            random.shuffle(&mut order);
            order
                .chunks_mut(samples * WINDOW)
                .for_each(|window| window.sort_by_key(|&i| lengths[i]));
            let mut plan: Vec<Vec<usize>> = order.chunks(samples).map(<[usize]>::to_vec).collect();
            random.shuffle(&mut plan);
            plan
        }
        Batching::Packed { tokens } => {
            let mut plan = best_fit(lengths, tokens);
            random.shuffle(&mut plan);
            plan
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMS: [Batching; 3] = [
        Batching::Shuffled { samples: 4 },
        Batching::Grouped { samples: 4 },
        Batching::Packed { tokens: 100 },
    ];

    fn lengths(n: usize) -> Vec<usize> {
        (0..n).map(|i| 1 + i * 37 % 90).collect()
    }

    fn take(sampler: &mut Sampler, batches: usize) -> Vec<Vec<usize>> {
        (0..batches)
            .map(|_| sampler.next_batch().to_vec())
            .collect()
    }

    #[test]
    fn an_epoch_holds_every_sample_once_and_epochs_differ() {
        for batching in FORMS {
            let mut sampler = Sampler::new(1, lengths(50), batching, Cursor::default());
            let batches = sampler.batches();
            let (first, second) = (take(&mut sampler, batches), take(&mut sampler, batches));
            assert_eq!(sampler.batches(), batches, "{batching:?}");
            for epoch in [&first, &second] {
                let mut sorted: Vec<usize> = epoch.iter().flatten().copied().collect();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..50).collect::<Vec<_>>(), "{batching:?}");
            }
            assert_ne!(first, second, "{batching:?}");
        }
    }

    #[test]
    fn a_cursor_resumes_anywhere_even_at_the_end_of_an_epoch() {
        for batching in FORMS {
            let all = take(
                &mut Sampler::new(9, lengths(17), batching, Cursor::default()),
                20,
            );
            for stop in 0..20 {
                let mut first = Sampler::new(9, lengths(17), batching, Cursor::default());
                take(&mut first, stop);
                let mut rest = Sampler::new(9, lengths(17), batching, first.cursor());
                assert_eq!(
                    take(&mut rest, 20 - stop),
                    all[stop..],
                    "{batching:?} stopped after {stop}"
                );
            }
        }
    }

    #[test]
    fn a_step_never_goes_on_into_the_next_epoch() {
        for batching in FORMS {
            for most in [1, 3, 64] {
                let mut sampler = Sampler::new(5, lengths(10), batching, Cursor::default());
                let steps = sampler.batches().div_ceil(most);
                for _ in 0..2 {
                    let taken: Vec<_> = (0..steps).map(|_| sampler.next_step(most)).collect();
                    assert!(
                        taken.iter().all(|step| (1..=most).contains(&step.len())),
                        "{batching:?} {most}"
                    );
                    let mut epoch: Vec<usize> = taken.into_iter().flatten().flatten().collect();
                    epoch.sort_unstable();
                    assert_eq!(epoch, (0..10).collect::<Vec<_>>(), "{batching:?} {most}");
                }
            }
        }
    }

    #[test]
    fn grouped_samples_are_of_similar_length() {
        let spread = |batching| {
            let lengths = lengths(400);
            let mut sampler = Sampler::new(3, lengths.clone(), batching, Cursor::default());
            let batches = sampler.batches();
            let spread = |batch: &Vec<usize>| {
                let of = |i: &usize| lengths[*i];
                batch.iter().map(of).max().unwrap_or(0) - batch.iter().map(of).min().unwrap_or(0)
            };
            take(&mut sampler, batches)
                .iter()
                .map(spread)
                .sum::<usize>()
                / batches
        };
        let (shuffled, grouped) = (
            spread(Batching::Shuffled { samples: 4 }),
            spread(Batching::Grouped { samples: 4 }),
        );
        assert!(
            grouped * 10 < shuffled,
            "{grouped} tokens apart when grouped, {shuffled} when shuffled"
        );
    }
}
