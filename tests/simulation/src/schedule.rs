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
    /// A worker's machine, its agent and its child, stands still, and later goes on.
    PauseWorker(usize),
    ResumeWorker(usize),
    /// A copy of the worker's state folder, as it is now, starts on another machine, where it
    /// registers by the same name or as a `stranger`.
    CopyWorker {
        worker: usize,
        stranger: bool,
    },
    /// The machine with the copy of a worker's state folder dies.
    KillCopy(usize),
    /// What a worker's synchronizations are answered gets lost for so long, and nothing else.
    Deafen(usize, Duration),
    /// The next call of a worker's attempt arrives twice, and after its next commit the one before.
    Repeat(usize),
    /// The next attempt of a worker that is done claims its success without a result.
    Claim(usize),
    /// The coordinator's machine dies, and what was not synced of uploads may be `torn`.
    KillCoordinator {
        torn: bool,
    },
    StartCoordinator,
    /// The coordinator stands still, and later goes on. Its steady clock has run meanwhile, or has
    /// not where its machine `slept`.
    PauseCoordinator,
    ResumeCoordinator {
        slept: bool,
    },
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
    /// A job of so many steps that comes after so many of those acknowledged last; `twice` sends it
    /// by the same key once more.
    Submit {
        steps: u64,
        after: usize,
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
pub const STEPS: [u64; 5] = [0, 12, 30, 80, DOOMED];
/// Steps of a job that fails at its end, whoever trains it.
pub const DOOMED: u64 = 7;
/// How often a job of each of [`STEPS`] is submitted.
const SHARES: [u64; 8] = [0, 12, 12, 30, 30, 80, 80, DOOMED];

/// A whole simulation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    pub seed: u64,
    pub workers: usize,
    pub lease: Duration,
    /// The step of simulated time.
    pub tick: Duration,
    /// In the order of time.
    pub acts: Vec<(Duration, Act)>,
    /// When everything is repaired.
    pub end: Duration,
}

/// Seconds of trouble.
const TROUBLED: u64 = 45;
/// Milliseconds between two looks of the network and of the machines at each other. Most of a
/// simulation's time goes into such steps, and different ones let different things coincide.
const TICKS: [u64; 4] = [20, 40, 60, 80];

impl Schedule {
    pub fn of(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let workers = 2 + chance.below(2) as usize;
        let lease = Duration::from_secs(chance.pick(&[4, 6, 10, 20]));
        let tick = Duration::from_millis(chance.pick(&TICKS));
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
            tick,
            acts,
            end: Duration::from_secs(TROUBLED + 5),
        }
    }
}

fn submission(chance: &mut Chance) -> Ask {
    Ask::Submit {
        steps: chance.pick(&SHARES),
        after: chance.pick(&[0, 0, 0, 1, 2]),
        twice: chance.below(3) == 0,
    }
}

/// One trouble or wish, and its end where it has one.
fn one(chance: &mut Chance, workers: usize, at: Duration, acts: &mut Vec<(Duration, Act)>) {
    let worker = chance.below(workers as u64) as usize;
    let mut later = at + Duration::from_millis(200 + chance.below(20_000));
    let flip = chance.below(2) == 0;
    let (first, then) = match chance.below(21) {
        0 | 1 => (
            Act::KillWorker {
                worker,
                keeps: flip,
            },
            Some(Act::StartWorker(worker)),
        ),
        2 | 3 => (
            Act::KillCoordinator { torn: flip },
            Some(Act::StartCoordinator),
        ),
        4 | 5 => {
            let ways = [
                Direction::ToCoordinator,
                Direction::FromCoordinator,
                Direction::Both,
            ];
            let way = chance.pick(&ways);
            (Act::Cut(worker, way), Some(Act::Repair(worker)))
        }
        6 => (Act::Hold(worker), Some(Act::Repair(worker))),
        7 => {
            let ms = chance.below(7_200_000) as i64 - 3_600_000;
            (Act::StepWall { ms }, None)
        }
        8 | 9 => {
            let trouble = chance.pick(&[Trouble::Full, Trouble::Slow, Trouble::Doubt]);
            (Act::Disk(trouble, later - at), None)
        }
        10 => (Act::PauseWorker(worker), Some(Act::ResumeWorker(worker))),
        11 => (
            Act::PauseCoordinator,
            Some(Act::ResumeCoordinator { slept: flip }),
        ),
        12 | 13 => {
            let stranger = flip;
            let dies = of_copy(chance, (worker, at), acts);
            later = dies.unwrap_or(later);
            let dies = dies.map(|_| Act::KillCopy(worker));
            (Act::CopyWorker { worker, stranger }, dies)
        }
        14 => (Act::Deafen(worker, later - at), None),
        15 => (Act::Repeat(worker), None),
        16 => (Act::Claim(worker), None),
        _ => wish(chance, worker, flip),
    };
    acts.push((at, first));
    acts.extend(then.map(|then| (later, then)));
}

/// When the machine dies that gets a copy of a worker's state folder at `at`; never, for some.
///
/// The coordinator may die with it. The original is then taken again, while it still trains for an
/// attempt that the copy has ended, and it may hear of that from its reports only.
fn of_copy(
    chance: &mut Chance,
    (worker, at): (usize, Duration),
    acts: &mut Vec<(Duration, Act)>,
) -> Option<Duration> {
    let lives = match chance.below(4) {
        0 => return None,
        1 => chance.below(20_000),
        _ => 1_000 + chance.below(5_000),
    };
    let dies = at + Duration::from_millis(lives);
    if chance.below(2) == 0 {
        let back = dies + Duration::from_millis(200 + chance.below(1_000));
        acts.push((dies, Act::KillCoordinator { torn: false }));
        acts.push((back, Act::StartCoordinator));
        let deaf = Duration::from_millis(chance.pick(&[0, 3_000, 6_000, 9_000]));
        acts.push((dies, Act::Deafen(worker, deaf)));
    }
    Some(dies)
}

/// What a person wants of a job or a worker, and what it wants later.
fn wish(chance: &mut Chance, worker: usize, flip: bool) -> (Act, Option<Act>) {
    let job = chance.below(6) as usize;
    let from_start = flip;
    let retry = Ask::Retry { job, from_start };
    let (first, then) = match chance.below(4) {
        0 => (Ask::Pause(job), Some(Ask::Resume(job))),
        1 => (Ask::Cancel(job), Some(retry)),
        2 => (retry, None),
        _ => {
            let at_once = flip;
            let drain = Ask::Drain { worker, at_once };
            (drain, Some(Ask::Undrain(worker)))
        }
    };
    (Act::Ask(first), then.map(Act::Ask))
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {} workers, a lease of {} s, steps of {} ms, repaired after {} s",
            self.seed,
            self.workers,
            self.lease.as_secs(),
            self.tick.as_millis(),
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
                count(|act| matches!(act, Act::KillCoordinator { .. })),
                count(|act| matches!(act, Act::StartCoordinator))
            );
            kinds.extend(acts.iter().map(|(_, act)| discriminant(act)));
        }
        assert_eq!(kinds.len(), 19);
    }
}
