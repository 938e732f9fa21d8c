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
    By, ConfigRevision, JobQuery, JobStore, JournalEntry, LogRecord, MemoryStore, MetricRecord,
    Page, StoreError, Stored, TokenRecord, Write,
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
pub struct Disk {
    kept: MemoryStore,
    witness: Witness,
    weather: Mutex<Weather>,
}

struct Weather {
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

impl Disk {
    pub fn new(seed: u64, witness: Witness) -> Self {
        Self {
            kept: MemoryStore::default(),
            witness,
            weather: Mutex::new(Weather {
                chance: Chance::new(!seed),
                trouble: None,
            }),
        }
    }

    /// The disk behaves badly until `until`.
    pub fn trouble(&self, trouble: Trouble, until: Duration) {
        self.weather().trouble = Some((trouble, until));
    }

    pub fn repair(&self) {
        self.weather().trouble = None;
    }

    /// The jobs that are durable, ended ones too.
    pub fn jobs(&self) -> Vec<Job> {
        let all = JobQuery {
            states: None,
            before: JobId(u64::MAX),
            limit: u32::MAX,
        };
        // The memory waits for nothing.
        match pin!(self.kept.jobs(&all)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(page)) => page.jobs,
            Poll::Ready(Err(_)) | Poll::Pending => Vec::new(),
        }
    }

    fn weather(&self) -> MutexGuard<'_, Weather> {
        self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fate(&self) -> Fate {
        let Weather { chance, trouble } = &mut *self.weather();
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

impl JobStore for Disk {
    async fn apply(&self, writes: Vec<Write>) -> Result<Vec<JournalEntry>, StoreError> {
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
                    self.kept.apply(writes).await?;
                }
                Err(StoreError::Unsure {
                    path: "simulated".into(),
                    fault: "the answer was lost".into(),
                })
            }
            Some(Trouble::Slow) | None => self.kept.apply(writes).await,
        };
        under_way.if_dropped = done.is_ok().then_some(Sight::WriteKeptInCrash);
        tokio::time::sleep(fate.after).await;
        under_way.if_dropped = None;
        done
    }

    async fn load(&self) -> Result<Stored, StoreError> {
        self.kept.load().await
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.kept.job(id).await
    }

    async fn jobs(&self, wanted: &JobQuery) -> Result<Page, StoreError> {
        self.kept.jobs(wanted).await
    }

    async fn metrics(
        &self,
        job: JobId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<MetricRecord>, StoreError> {
        self.kept.metrics(job, after, limit).await
    }

    async fn logs(&self, job: JobId, after: u64, limit: u32) -> Result<Vec<LogRecord>, StoreError> {
        self.kept.logs(job, after, limit).await
    }

    async fn last_logs(&self, job: JobId, limit: u32) -> Result<Vec<LogRecord>, StoreError> {
        self.kept.last_logs(job, limit).await
    }

    async fn record_bytes(&self, job: JobId) -> Result<u64, StoreError> {
        self.kept.record_bytes(job).await
    }

    fn disk_bytes(&self) -> u64 {
        self.kept.disk_bytes()
    }

    async fn journal(&self, after: u64, limit: u32) -> Result<Vec<JournalEntry>, StoreError> {
        self.kept.journal(after, limit).await
    }

    async fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        self.kept.tokens().await
    }

    async fn put_config(
        &self,
        name: &str,
        yaml: &str,
        hash: &str,
        unix_ms: u64,
        by: Option<By>,
    ) -> Result<ConfigRevision, StoreError> {
        self.kept.put_config(name, yaml, hash, unix_ms, by).await
    }

    async fn config(&self, name: &str, revision: u64) -> Result<ConfigRevision, StoreError> {
        self.kept.config(name, revision).await
    }

    async fn configs(&self, name: Option<&str>) -> Result<Vec<ConfigRevision>, StoreError> {
        self.kept.configs(name).await
    }
}
