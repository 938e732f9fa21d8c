//! What happens in a simulation, and when: a function of the seed and of nothing else.

use std::fmt;
use std::time::Duration;

use qlora_testkit::Chance;

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// A person asks the coordinator for something.
    Ask(Ask),
    /// A worker's machine dies. It keeps what its attempt has left on its disk, or loses that.
    KillWorker {
        worker: usize,
        keeps: bool,
    },
    StartWorker(usize),
    /// A copy of the worker's state folder, as it is now, starts on another machine.
    CopyWorker(usize),
    KillCoordinator,
    StartCoordinator,
    /// Messages in one direction, or in both, are lost from now on.
    Cut(usize, Direction),
    /// Messages wait from now on.
    Hold(usize),
    /// Messages arrive again, those that waited as well.
    Repair(usize),
    /// The wall clock of all machines jumps.
    StepWall {
        ms: i64,
    },
    /// The coordinator's disk behaves badly for so long.
    Disk(Trouble, Duration),
}

/// Which messages are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    ToCoordinator,
    FromCoordinator,
    Both,
}

/// How a disk behaves badly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Writes are refused.
    Full,
    /// Writes take seconds.
    Slow,
    /// The answer to a write is lost; whether its bytes were synced, the seed says each time.
    Doubt,
}

/// What a person asks. Numbers count jobs in the order in which they were acknowledged, round and
/// round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// A job of so many steps; `twice` sends it by the same key once more.
    Submit {
        steps: u64,
        twice: bool,
    },
    Pause(usize),
    Resume(usize),
    Cancel(usize),
    Retry {
        job: usize,
        from_start: bool,
    },
    Drain {
        worker: usize,
        at_once: bool,
    },
    Undrain(usize),
}

/// Steps of the jobs that are submitted.
pub const STEPS: [u64; 4] = [0, 12, 30, 80];

/// A whole simulation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    pub seed: u64,
    pub workers: usize,
    pub lease: Duration,
    /// In the order of time.
    pub acts: Vec<(Duration, Act)>,
    /// When everything is repaired.
    pub end: Duration,
}

/// Seconds of trouble.
const TROUBLED: u64 = 60;

impl Schedule {
    pub fn of(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let workers = 2 + chance.below(2) as usize;
        let lease = Duration::from_secs(chance.pick(&[6, 10, 30]));
        let mut acts = Vec::new();
        for _ in 0..2 + chance.below(3) {
            let at = Duration::from_millis(chance.below(TROUBLED * 500));
            acts.push((at, Act::Ask(submission(&mut chance))));
        }
        for _ in 0..4 + chance.below(9) {
            let at = Duration::from_millis(1_000 + chance.below(TROUBLED * 1_000));
            one(&mut chance, workers, at, &mut acts);
        }
        // A stable sort: acts of one time stay in their order.
        acts.sort_by_key(|(at, _)| *at);
        Self {
            seed,
            workers,
            lease,
            acts,
            end: Duration::from_secs(TROUBLED + 5),
        }
    }
}

fn submission(chance: &mut Chance) -> Ask {
    Ask::Submit {
        steps: chance.pick(&STEPS),
        twice: chance.below(3) == 0,
    }
}

/// One trouble or wish, and its end where it has one.
fn one(chance: &mut Chance, workers: usize, at: Duration, acts: &mut Vec<(Duration, Act)>) {
    let worker = chance.below(workers as u64) as usize;
    let job = chance.below(6) as usize;
    let later = at + Duration::from_millis(200 + chance.below(20_000));
    let flip = chance.below(2) == 0;
    match chance.below(15) {
        0 | 1 => acts.extend([
            (
                at,
                Act::KillWorker {
                    worker,
                    keeps: flip,
                },
            ),
            (later, Act::StartWorker(worker)),
        ]),
        2 | 3 => acts.extend([(at, Act::KillCoordinator), (later, Act::StartCoordinator)]),
        4 | 5 => {
            let ways = [
                Direction::ToCoordinator,
                Direction::FromCoordinator,
                Direction::Both,
            ];
            let way = chance.pick(&ways);
            acts.extend([(at, Act::Cut(worker, way)), (later, Act::Repair(worker))]);
        }
        6 => acts.extend([(at, Act::Hold(worker)), (later, Act::Repair(worker))]),
        7 => {
            let ms = chance.below(7_200_000) as i64 - 3_600_000;
            acts.push((at, Act::StepWall { ms }));
        }
        8 | 9 => {
            let trouble = chance.pick(&[Trouble::Full, Trouble::Slow, Trouble::Doubt]);
            acts.push((at, Act::Disk(trouble, later - at)));
        }
        10 => acts.extend([
            (at, Act::Ask(Ask::Pause(job))),
            (later, Act::Ask(Ask::Resume(job))),
        ]),
        11 => acts.push((at, Act::Ask(Ask::Cancel(job)))),
        12 => acts.push((
            later,
            Act::Ask(Ask::Retry {
                job,
                from_start: flip,
            }),
        )),
        13 => acts.extend([
            (
                at,
                Act::Ask(Ask::Drain {
                    worker,
                    at_once: flip,
                }),
            ),
            (later, Act::Ask(Ask::Undrain(worker))),
        ]),
        _ => acts.push((at, Act::CopyWorker(worker))),
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {} workers, a lease of {} s, repaired after {} s",
            self.seed,
            self.workers,
            self.lease.as_secs(),
            self.end.as_secs()
        )?;
        for (at, act) in &self.acts {
            writeln!(f, "  {:9.3} {act:?}", at.as_secs_f64())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::mem::discriminant;

    use super::*;

    #[test]
    fn a_seed_gives_its_schedule_and_another_seed_another_one() {
        assert_eq!(Schedule::of(7), Schedule::of(7));
        assert_ne!(Schedule::of(7), Schedule::of(8));
    }

    #[test]
    fn every_kind_of_act_happens_and_everything_that_dies_starts_again() {
        let mut kinds = HashSet::new();
        for seed in 0..200 {
            let acts = Schedule::of(seed).acts;
            let count = |wanted: fn(&Act) -> bool| acts.iter().filter(|(_, a)| wanted(a)).count();
            assert_eq!(
                count(|act| matches!(act, Act::KillCoordinator)),
                count(|act| matches!(act, Act::StartCoordinator))
            );
            kinds.extend(acts.iter().map(|(_, act)| discriminant(act)));
        }
        assert_eq!(kinds.len(), 11);
    }
}
