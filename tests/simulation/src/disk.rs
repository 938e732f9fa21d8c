//! The coordinator's database: it outlasts the program, and behaves as badly as the schedule says.
//!
//! A transaction is durable as a whole once its bytes are synced. Before that a crash loses it,
//! torn as it may be: a database finds that by its checksums. A crash after it, or an answer that
//! is lost, leaves a change of which nobody was told.

use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use qlora_engine::{Job, JobId};
use qlora_store::{
    Faults, Faulty, JobQuery, JobStore, JournalEntry, MemoryStore, StoreError, Write,
};
use qlora_testkit::Chance;

use crate::clocks::now;
use crate::schedule::Trouble;
use crate::sights::Sight;
use crate::witness::Witness;

/// How long a write takes before its bytes are synced, and how long its answer takes after that, at
/// the most.
const QUICK: u64 = 4;
/// The same of a slow disk.
const SLOW: u64 = 3_000;

/// A database with a weather of its own.
pub type Disk = Faulty<Weather>;

pub struct Weather {
    witness: Witness,
    state: Mutex<State>,
}

struct State {
    chance: Chance,
    /// What is wrong, and until when.
    trouble: Option<(Trouble, Duration)>,
}

/// A write; it is dropped in its middle where the machine dies.
struct UnderWay<'a> {
    witness: &'a Witness,
    if_dropped: Option<Sight>,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(sight) = self.if_dropped {
            self.witness.saw(sight);
        }
    }
}

/// What happens to one write.
struct Fate {
    before: Duration,
    after: Duration,
    trouble: Option<Trouble>,
    synced: bool,
}

/// The jobs that are durable, ended ones too.
pub fn jobs(disk: &Disk) -> Vec<Job> {
    let all = JobQuery {
        states: None,
        before: JobId(u64::MAX),
        limit: u32::MAX,
    };
    // The memory waits for nothing.
    match pin!(disk.jobs(&all)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(page)) => page.jobs,
        Poll::Ready(Err(_)) | Poll::Pending => Vec::new(),
    }
}

impl Weather {
    pub fn new(seed: u64, witness: Witness) -> Self {
        Self {
            witness,
            state: Mutex::new(State {
                chance: Chance::new(!seed),
                trouble: None,
            }),
        }
    }

    /// The disk behaves badly until `until`.
    pub fn trouble(&self, trouble: Trouble, until: Duration) {
        self.state().trouble = Some((trouble, until));
    }

    pub fn repair(&self) {
        self.state().trouble = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fate(&self) -> Fate {
        let State { chance, trouble } = &mut *self.state();
        let trouble = trouble.filter(|(_, until)| now() < *until).map(|(t, _)| t);
        let most = match trouble {
            Some(Trouble::Slow) => SLOW,
            _ => QUICK,
        };
        let mut wait = || Duration::from_millis(chance.below(most));
        let (before, after) = (wait(), wait());
        Fate {
            before,
            after,
            trouble,
            synced: chance.below(2) == 0,
        }
    }
}

impl Faults for Weather {
    async fn apply(
        &self,
        kept: &MemoryStore,
        writes: Vec<Write>,
    ) -> Result<Vec<JournalEntry>, StoreError> {
        let fate = self.fate();
        if let Some(trouble) = fate.trouble {
            self.witness.saw(match trouble {
                Trouble::Full => Sight::WriteRefused,
                Trouble::Slow => Sight::WriteSlow,
                Trouble::Doubt if fate.synced => Sight::WriteKeptInDoubt,
                Trouble::Doubt => Sight::WriteLostInDoubt,
            });
        }
        let mut under_way = UnderWay {
            witness: &self.witness,
            if_dropped: Some(Sight::WriteLostInCrash),
        };
        tokio::time::sleep(fate.before).await;
        let done = match fate.trouble {
            Some(Trouble::Full) => Err(StoreError::DiskFull {
                path: "simulated".into(),
            }),
            Some(Trouble::Doubt) => {
                if fate.synced {
                    kept.apply(writes).await?;
                }
                Err(StoreError::Unsure {
                    path: "simulated".into(),
                    fault: "the answer was lost".into(),
                })
            }
            Some(Trouble::Slow) | None => kept.apply(writes).await,
        };
        under_way.if_dropped = done.is_ok().then_some(Sight::WriteKeptInCrash);
        tokio::time::sleep(fate.after).await;
        under_way.if_dropped = None;
        done
    }
}
