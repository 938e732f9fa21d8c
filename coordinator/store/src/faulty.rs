//! A store in memory with faults: for tests of those who use a store.

use qlora_engine::{Job, JobId};

use crate::error::StoreError;
use crate::memory::MemoryStore;
use crate::page::{JobQuery, Page};
use crate::records::{
    By, ConfigRevision, JobStore, JournalEntry, LogRecord, MetricRecord, Stored, TokenRecord, Write,
};

/// What befalls the writes of a [`Faulty`] store, and what a start reads of it.
pub trait Faults: Send + Sync + 'static {
    /// Writes to `kept`, or does not, or later.
    ///
    /// # Errors
    /// As [`JobStore::apply`]; that it fails is what it is for.
    fn apply(
        &self,
        kept: &MemoryStore,
        writes: Vec<Write>,
    ) -> impl Future<Output = Result<Vec<JournalEntry>, StoreError>> + Send;

    /// What a start is told of what is `stored`.
    fn told(&self, stored: Stored) -> Stored {
        stored
    }
}

/// Everything in memory, behind faults.
#[derive(Debug, Default)]
pub struct Faulty<F> {
    kept: MemoryStore,
    pub faults: F,
}

impl<F> Faulty<F> {
    pub fn new(faults: F) -> Self {
        Self {
            kept: MemoryStore::default(),
            faults,
        }
    }
}

impl<F: Faults> JobStore for Faulty<F> {
    async fn apply(&self, writes: Vec<Write>) -> Result<Vec<JournalEntry>, StoreError> {
        self.faults.apply(&self.kept, writes).await
    }

    async fn load(&self) -> Result<Stored, StoreError> {
        Ok(self.faults.told(self.kept.load().await?))
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
