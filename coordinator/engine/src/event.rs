//! What comes in, what goes out, and why something is refused.

use std::collections::BTreeSet;

use crate::attempt::{Outcome, Rendezvous};
use crate::ids::{JobId, SessionId, Token};
use crate::job::{Artifact, Job, JobSpec};
use crate::progress::Progress;
use crate::prune::Prune;
use crate::worker::{Drain, Platform};

/// One thing that happened outside.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Submit {
        spec: Box<JobSpec>,
    },
    Cancel {
        job: JobId,
        reason: String,
    },
    /// The job is to wait until it is resumed; a running attempt saves and stops first.
    Pause {
        job: JobId,
        reason: String,
    },
    /// A paused job may start again, from its newest checkpoint or from that of step `from`.
    Resume {
        job: JobId,
        from: Option<u64>,
    },
    /// An ended job is done once more, as a job of its own.
    Retry {
        job: JobId,
        /// From nothing, and not from the newest checkpoint.
        from_start: bool,
        idempotency_key: Option<String>,
        /// Who asks for it.
        owner: String,
    },
    /// An ended job goes, with all that is known of it.
    RemoveJob {
        job: JobId,
    },
    /// `what` of an ended job goes, because of `reason`.
    Prune {
        job: JobId,
        what: Prune,
        reason: String,
    },
    Register {
        name: String,
        instance: String,
        /// The session that the worker was given last, of which a copy of its state folder does
        /// not know once there is a newer one.
        previous: Option<SessionId>,
        platform: Box<Platform>,
        /// The attempt that goes on running at the worker.
        running: Option<Token>,
    },
    /// A worker renews its lease and says what runs.
    Synchronize {
        session: SessionId,
        running: Option<Token>,
        memory_free: Option<u64>,
        disk_free: Option<u64>,
        /// As [`Platform::models`]; none where they are those of the last time.
        models: Option<BTreeSet<String>>,
        draining: bool,
    },
    /// A worker's connection broke while its answer was held.
    Leave {
        session: SessionId,
    },
    /// A worker that is away will not come back: it leaves the list.
    RemoveWorker {
        name: String,
    },
    /// The worker is given nothing more until it is undrained.
    Drain {
        worker: String,
        reason: String,
        /// Its attempt is not waited for: it saves and stops, and the job goes back to the queue.
        at_once: bool,
    },
    Undrain {
        worker: String,
    },
    /// No job starts until the queue is undrained; what runs goes on.
    DrainQueue {
        reason: String,
    },
    UndrainQueue,
    /// Metrics and logs of an attempt came; asks whether they may be stored.
    Report {
        session: SessionId,
        token: Token,
        batch: u64,
        progress: Option<Box<Progress>>,
    },
    Commit {
        session: SessionId,
        token: Token,
        artifact: Artifact,
    },
    Finish {
        session: SessionId,
        token: Token,
        outcome: Outcome,
        message: String,
        /// The error code of what `message` tells; empty where it has none.
        code: String,
    },
    /// The first worker of an attempt says where the others find it.
    Offer {
        session: SessionId,
        token: Token,
        rendezvous: Rendezvous,
    },
    /// Time passed: leases and backoffs may have run out.
    Tick,
    /// For so many milliseconds nobody was heard, and it was the coordinator's own doing: it stood
    /// still.
    Stalled {
        ms: u64,
    },
}

/// The answer to one event.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    Done,
    /// The job of a submission; false where the idempotency key was known.
    Submitted {
        job: JobId,
        created: bool,
    },
    Registered {
        session: SessionId,
    },
    /// What a worker should do now.
    Wanted(Wanted),
    /// Whether a batch is new; a repeated one is acknowledged and not stored.
    Batch {
        job: JobId,
        is_new: bool,
        /// Milliseconds for which the attempt is asked to gather before its next batch.
        gather: u64,
    },
    Refused(Refusal),
}

/// The wanted state of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    Nothing,
    Run {
        job: JobId,
        token: Token,
    },
    GoOn,
    /// Save and stop; at once, and without saving, where nothing of the attempt would be taken any
    /// more.
    Stop {
        reason: String,
        at_once: bool,
        /// The job goes on afterwards, on another worker.
        resumes: bool,
    },
}

/// Something to do outside, in order, before the answer is given.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// The job changed: store it and tell its watchers.
    Save(JobId),
    /// A line for the journal.
    Record {
        job: Option<JobId>,
        worker: Option<String>,
        kind: JournalKind,
        text: String,
    },
    /// The job is gone: nothing of it stays in the store but the journal.
    Remove(JobId),
    /// The metrics and the log of the job are gone from the store; the job stays.
    RemoveRecords(JobId),
    /// The worker was drained by an operator, or undrained where `drain` is none: store it. The
    /// queue is drained under the empty name, which no worker has.
    SaveDrain {
        worker: String,
        drain: Option<Drain>,
    },
    /// The session should synchronize now.
    Wake(SessionId),
    /// The job needs this artifact no more; once that is durable it may go, if nothing else needs
    /// it.
    Release {
        job: JobId,
        config_hash: String,
        digest: String,
    },
}

/// Effects of one event, as they come up.
pub(crate) type Effects = Vec<Effect>;

impl Effect {
    /// `job` needs the artifact `digest` no more.
    pub(crate) fn release(job: &Job, digest: &str) -> Self {
        Self::Release {
            job: job.id,
            config_hash: job.spec.config_hash.clone(),
            digest: digest.to_owned(),
        }
    }

    pub(crate) fn record(
        job: Option<JobId>,
        worker: Option<String>,
        kind: JournalKind,
        text: String,
    ) -> Self {
        Self::Record {
            job,
            worker,
            kind,
            text,
        }
    }
}

/// What a line of the journal tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalKind {
    Submitted,
    Started,
    Saved,
    Stopping,
    Requeued,
    Succeeded,
    Failed,
    Cancelled,
    Paused,
    Resumed,
    /// A job's record, by the store.
    Unreadable,
    Registered,
    Lost,
    Removed,
    /// A part of what was kept of a job is gone.
    Pruned,
    SetAside,
    Drained,
    Undrained,
}

impl JournalKind {
    /// As the journal has it; a test of the coordinator compares it with the word of the wire.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Started => "started",
            Self::Saved => "saved",
            Self::Stopping => "stopping",
            Self::Requeued => "requeued",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Unreadable => "unreadable",
            Self::Registered => "registered",
            Self::Lost => "lost",
            Self::Removed => "removed",
            Self::Pruned => "pruned",
            Self::SetAside => "set aside",
            Self::Drained => "drained",
            Self::Undrained => "undrained",
        }
    }
}

/// Why an event changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no job {0}")]
    UnknownJob(JobId),
    #[error("job {job} has ended: {state}")]
    JobEnded { job: JobId, state: &'static str },
    #[error("job {job} is {state}: only {wanted} job can be {done}{}", way_out(*job, wanted))]
    WrongState {
        job: JobId,
        state: &'static str,
        wanted: &'static str,
        done: &'static str,
    },
    #[error(
        "job {0} has succeeded: nothing is left to do; qlora-ctl retry {0} --from-start does it anew"
    )]
    NothingLeft(JobId),
    #[error("job {job} has no checkpoint of step {step}; it has {}", steps(.kept))]
    NoCheckpoint {
        job: JobId,
        step: u64,
        kept: Vec<u64>,
    },
    #[error("the attempt is not current: another attempt has the job, or the job has ended")]
    StaleToken(Token),
    #[error("the session is unknown or its lease has ended: register again")]
    StaleSession(SessionId),
    #[error("the attempt belongs to another worker")]
    NotYours(Token),
    #[error(
        "a worker called {name} is connected from another machine or state folder; start this one with another --name"
    )]
    NameTaken { name: String },
    #[error(
        "a worker with the identity of {name} is there: it has just ended and its lease holds, or the state folder was copied"
    )]
    IdentityTaken { name: String },
    #[error(
        "the idempotency key was used for another request, as job {0}: use another key, or submit the same configuration and files"
    )]
    KeyReused(JobId),
    #[error("there is no job {0} to come after; qlora-ctl jobs lists them")]
    UnknownDependency(JobId),
    #[error(
        "job {job} is {state}, so a job after it would never start: do it again with qlora-ctl retry {job} and name the new job, or come after any end with --after-any"
    )]
    DependencyEnded { job: JobId, state: &'static str },
    #[error(
        "{owner} has {limit} waiting jobs, and no user may have more: submit again once one has started or was cancelled, or ask for a greater --max-queued-per-user of the coordinator"
    )]
    QueueFull { owner: String, limit: u64 },
    #[error("there is no worker {0}")]
    UnknownWorker(String),
    #[error(
        "worker {0} is connected or holds a job: stop it first, and it leaves the list after its lease"
    )]
    WorkerPresent(String),
    #[error("a checkpoint of step {step} lies behind the committed one of step {committed}")]
    StepWentBack { step: u64, committed: u64 },
    #[error("the attempt {missing}, so it has not succeeded; it has ended as failed")]
    NoResult { missing: &'static str },
}

/// How a job comes to have ended, where only such a one is taken.
fn way_out(job: JobId, wanted: &str) -> String {
    if wanted == ENDED {
        return format!("; qlora-ctl cancel {job} ends it");
    }
    String::new()
}

/// What [`Refusal::WrongState`] wants of a job that has to be over.
pub(crate) const ENDED: &str = "an ended";

fn steps(kept: &[u64]) -> String {
    if kept.is_empty() {
        return "none".into();
    }
    let kept: Vec<String> = kept.iter().map(u64::to_string).collect();
    format!("those of {}", kept.join(", "))
}
