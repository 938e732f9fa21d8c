//! What is kept, and the operations on it.

use std::collections::BTreeMap;
use std::future::Future;

use qlora_engine::{Drain, Ended, Job, JobId, JournalKind, Reserved};

use crate::StoreError;
use crate::artifacts::Owner;
use crate::page::{JobQuery, Page};

/// Values of one moment of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricRecord {
    /// From 1 within the job; given by the store.
    pub seq: u64,
    pub step: u64,
    pub unix_ms: u64,
    /// As they were reported, those included that are not finite.
    pub values: BTreeMap<String, f64>,
}

/// One line of a job's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// From 1 within the job; given by the store.
    pub seq: u64,
    pub unix_ms: u64,
    pub level: String,
    pub text: String,
    pub token: u64,
}

/// Who asked for a change, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct By {
    /// The name or the number of a token, or `local` for the first one.
    pub who: String,
    /// The address that the request came from.
    pub from: String,
    /// What was asked for, in a word or two.
    pub act: String,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// From 1; given by the store.
    pub seq: u64,
    pub unix_ms: u64,
    pub job: Option<JobId>,
    pub worker: Option<String>,
    pub kind: String,
    pub text: String,
    /// None where nobody asked for it.
    pub by: Option<By>,
}

/// A token that was given out. It is not in here: only what it is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    /// Never given again.
    pub id: u64,
    pub name: String,
    pub role: String,
    /// SHA-256 of the token, as hex text.
    pub hash: String,
    pub created_unix_ms: u64,
    /// None where it does not expire.
    pub expires_unix_ms: Option<u64>,
    pub revoked_unix_ms: Option<u64>,
    /// The last day on which it was used, counted from 1970.
    pub used_day: Option<u64>,
}

/// A named configuration that never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigRevision {
    pub name: String,
    pub revision: u64,
    pub yaml: String,
    pub hash: String,
    pub unix_ms: u64,
}

/// One change; sequence numbers within are ignored and given by the store.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    SaveJob(Box<Job>),
    /// The job goes with its metrics and its log; what the journal says of it stays.
    RemoveJob(JobId),
    /// The metrics and the log of the job go.
    RemoveRecords(JobId),
    Metrics {
        job: JobId,
        points: Vec<MetricRecord>,
    },
    Logs {
        job: JobId,
        lines: Vec<LogRecord>,
    },
    Journal(JournalEntry),
    /// An operator has drained the worker, or has undrained it where there is no `drain`.
    SaveDrain {
        worker: String,
        drain: Option<Drain>,
    },
    AddToken(Box<TokenRecord>),
    RevokeToken {
        id: u64,
        unix_ms: u64,
    },
    TokenUsed {
        id: u64,
        day: u64,
    },
    /// A token that was over long ago; what the journal says of it stays.
    RemoveToken(u64),
}

impl ConfigRevision {
    /// The kind of the journal entry that tells of a new one.
    pub const KIND: &str = "put";

    /// What the journal tells of this revision.
    pub(crate) fn entry(&self, by: By) -> JournalEntry {
        JournalEntry {
            seq: 0,
            unix_ms: self.unix_ms,
            job: None,
            worker: None,
            kind: Self::KIND.into(),
            text: format!("configuration {} revision {}", self.name, self.revision),
            by: Some(by),
        }
    }
}

/// A job's record that cannot be read. It is left as it is, and passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    pub job: JobId,
    pub fault: String,
    /// The journal says so already.
    pub told: bool,
}

impl Unreadable {
    /// The kind of the journal entry that tells of one.
    pub const KIND: &str = JournalKind::Unreadable.word();
}

/// What a start finds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Stored {
    /// Every job that has not ended, oldest first.
    pub jobs: Vec<Job>,
    /// Every ended job in brief, in no order.
    pub ended: Vec<Ended>,
    pub unreadable: Vec<Unreadable>,
    /// Workers that are drained.
    pub drains: BTreeMap<String, Drain>,
    /// What must not be given out again.
    pub reserved: Reserved,
    /// 128 random bits as hex text: made with the store, and the same for as long as it lasts.
    pub coordinator_id: String,
}

impl Stored {
    /// The owner of the artifacts that the jobs need.
    pub fn owner(&self) -> Owner {
        let has_artifacts = self.jobs.iter().any(|job| job.digests().next().is_some())
            || self.ended.iter().any(Ended::has_artifacts);
        Owner::new(self.coordinator_id.clone(), has_artifacts)
    }
}

/// Jobs, their metrics and logs, drained workers, the journal, and named configurations.
pub trait JobStore: Send + Sync + 'static {
    /// Makes all of `writes` durable, or none; returns the journal entries with their numbers.
    ///
    /// # Errors
    /// Nothing of it is there, unless the error is [`StoreError::Unsure`].
    fn apply(
        &self,
        writes: Vec<Write>,
    ) -> impl Future<Output = Result<Vec<JournalEntry>, StoreError>> + Send;

    /// Does `act`, which is of no store, so that nobody else leads before it has ended: what is
    /// removed for nobody needing it must not be removed after others may have come to need it. Only
    /// where several processes may use one store there is anything to hold. What has begun goes on
    /// to its end, with all that `act` holds, also where nobody waits for it any more.
    ///
    /// # Errors
    /// This process leads no more, or that cannot be read, and nothing is done; or
    /// [`StoreError::Unheld`], and `act` may have been done.
    fn while_leading<T: Send + 'static>(
        &self,
        act: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = Result<T, StoreError>> + Send {
        async { Ok(act.await) }
    }

    /// What a start needs: of ended jobs no more than an [`Ended`] each, so that it takes little time
    /// and memory however many there are.
    fn load(&self) -> impl Future<Output = Result<Stored, StoreError>> + Send;

    /// The job `id`, whether it has ended or not; none where there is no such job.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] where it is there and cannot be read.
    fn job(&self, id: JobId) -> impl Future<Output = Result<Option<Job>, StoreError>> + Send;

    /// The jobs that `query` asks for, newest first. It looks them up by state and number, so that it
    /// takes the same time however many others there are. Those that cannot be read are left out.
    fn jobs(&self, query: &JobQuery) -> impl Future<Output = Result<Page, StoreError>> + Send;

    /// Points of `job` after number `after`, oldest first.
    fn metrics(
        &self,
        job: JobId,
        after: u64,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<MetricRecord>, StoreError>> + Send;

    /// Lines of `job` after number `after`, oldest first.
    fn logs(
        &self,
        job: JobId,
        after: u64,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<LogRecord>, StoreError>> + Send;

    /// The last `limit` lines of `job`, oldest first.
    fn last_logs(
        &self,
        job: JobId,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<LogRecord>, StoreError>> + Send;

    /// Bytes of the metrics and the log of `job`, without what the store adds for its own order.
    fn record_bytes(&self, job: JobId) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Bytes that the store takes on disk; it waits for the disk.
    fn disk_bytes(&self) -> u64;

    fn journal(
        &self,
        after: u64,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<JournalEntry>, StoreError>> + Send;

    /// Every token that was given out and not removed, oldest first.
    fn tokens(&self) -> impl Future<Output = Result<Vec<TokenRecord>, StoreError>> + Send;

    /// Makes the next revision of `name`, and an entry of the journal where it is `by` somebody; the
    /// newest is returned unchanged where its text is the same.
    fn put_config(
        &self,
        name: &str,
        yaml: &str,
        hash: &str,
        unix_ms: u64,
        by: Option<By>,
    ) -> impl Future<Output = Result<ConfigRevision, StoreError>> + Send;

    /// A revision, or the newest for 0.
    fn config(
        &self,
        name: &str,
        revision: u64,
    ) -> impl Future<Output = Result<ConfigRevision, StoreError>> + Send;

    /// The newest revision of every name, or every revision of one.
    fn configs(
        &self,
        name: Option<&str>,
    ) -> impl Future<Output = Result<Vec<ConfigRevision>, StoreError>> + Send;
}
