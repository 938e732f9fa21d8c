//! A store that fails, or waits, when a test tells it to.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use qlora_engine::{Job, JobId};
use qlora_store::{
    By, ConfigRevision, JobQuery, JobStore, JournalEntry, LogRecord, MemoryStore, MetricRecord,
    Page, StoreError, Stored, TokenRecord, Unreadable, Write,
};
use tokio::sync::Semaphore;

/// Everything in memory, and writes that can be made to fail or to wait.
pub struct Failing {
    kept: MemoryStore,
    pub applied: AtomicU64,
    /// Writes that fail: from the first of these numbers on, so many of them.
    fails: Mutex<(u64, u64)>,
    /// They fail after all was stored.
    pub too_late: Mutex<bool>,
    pub gate: Semaphore,
    /// Jobs that cannot be read.
    pub unreadable: Mutex<Vec<Unreadable>>,
}

impl Failing {
    pub fn new() -> Arc<Self> {
        let fails = Mutex::new((0, 0));
        let gate = Semaphore::new(1_000_000);
        Arc::new(Self {
            kept: MemoryStore::default(),
            applied: AtomicU64::new(0),
            fails,
            too_late: Mutex::new(false),
            gate,
            unreadable: Mutex::default(),
        })
    }

    /// Of the next writes the one after `after` fails, and those after it up to `many`.
    pub fn fail(&self, after: u64, many: u64) {
        *self.fails.lock().expect("a lock") = (self.applied.load(SeqCst) + 1 + after, many);
    }

    fn fault() -> StoreError {
        StoreError::DiskFull {
            path: "here".into(),
        }
    }
}

impl JobStore for Failing {
    async fn apply(&self, writes: Vec<Write>) -> Result<Vec<JournalEntry>, StoreError> {
        self.gate.acquire().await.expect("a gate").forget();
        let number = self.applied.fetch_add(1, SeqCst) + 1;
        let (first, many) = *self.fails.lock().expect("a lock");
        if (first..first + many).contains(&number) {
            if *self.too_late.lock().expect("a lock") {
                self.kept.apply(writes).await?;
                return Err(StoreError::Unsure {
                    path: "here".into(),
                    fault: "no answer".into(),
                });
            }
            return Err(Self::fault());
        }
        self.kept.apply(writes).await
    }

    async fn load(&self) -> Result<Stored, StoreError> {
        let stored = self.kept.load().await?;
        let unreadable = self.unreadable.lock().expect("a lock").clone();
        Ok(Stored {
            unreadable,
            ..stored
        })
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.kept.job(id).await
    }

    async fn jobs(&self, query: &JobQuery) -> Result<Page, StoreError> {
        self.kept.jobs(query).await
    }

    async fn metrics(
        &self,
        job: JobId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<MetricRecord>, StoreError> {
        self.kept.metrics(job, after, limit).await
    }

    async fn last_logs(&self, job: JobId, limit: u32) -> Result<Vec<LogRecord>, StoreError> {
        self.kept.last_logs(job, limit).await
    }

    async fn logs(&self, job: JobId, after: u64, limit: u32) -> Result<Vec<LogRecord>, StoreError> {
        self.kept.logs(job, after, limit).await
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
        at: u64,
        by: Option<By>,
    ) -> Result<ConfigRevision, StoreError> {
        self.kept.put_config(name, yaml, hash, at, by).await
    }

    async fn config(&self, name: &str, revision: u64) -> Result<ConfigRevision, StoreError> {
        self.kept.config(name, revision).await
    }

    async fn configs(&self, name: Option<&str>) -> Result<Vec<ConfigRevision>, StoreError> {
        self.kept.configs(name).await
    }
}
