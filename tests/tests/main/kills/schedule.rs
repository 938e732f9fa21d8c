//! Who is killed when: all of it follows from the seed.

use std::time::Duration;

use qlora_tests::Chance;

/// A program that is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    Coordinator,
    /// The worker of this number.
    Worker(usize),
    /// The process in which that worker trains.
    Training(usize),
    /// The coordinator and that worker.
    Both(usize),
}

/// One kill.
#[derive(Debug, Clone, Copy)]
pub struct Act {
    /// Since the act before it.
    pub after: Duration,
    pub victim: Victim,
    /// Until it is started again.
    pub away: Duration,
}

const VICTIMS: [Victim; 7] = [
    Victim::Coordinator,
    Victim::Worker(0),
    Victim::Worker(1),
    Victim::Training(0),
    Victim::Training(1),
    Victim::Both(0),
    Victim::Both(1),
];

/// The kills of the round `seed`. A job that has lost six workers and saved nothing has failed as
/// it should; these are fewer.
pub fn acts(seed: u64) -> Vec<Act> {
    let mut chance = Chance::new(seed);
    let number = 3 + chance.below(3);
    (0..number)
        .map(|_| Act {
            after: Duration::from_millis(chance.below(900)),
            victim: chance.pick(&VICTIMS),
            away: Duration::from_millis(chance.below(400)),
        })
        .collect()
}
