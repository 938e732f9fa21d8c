//! A job and its states.
//!
//! ```text
//!              start                        finish(succeeded)
//!   Queued ------------> Running ---------------------------------> Succeeded
//!     ^ |                | |  |  finish(bad input, out of memory)
//!     | |   lost, failed | |  +-----------------------------------> Failed
//!     | +----------------+ |        or too many failed attempts
//!     |   (with backoff)   |
//!     +-- cancel --------- + -- finish after cancel --------------> Cancelled
//! ```

use serde::{Deserialize, Serialize};

use crate::ids::{JobId, Millis, Token};
use crate::worker::Needs;

/// A job with everything that is known of it, but for metrics and logs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub id: JobId,
    pub spec: JobSpec,
    pub state: JobState,
    pub attempts: Vec<Attempt>,
    /// Attempts that failed by themselves; lost workers do not count.
    pub failures: u32,
    pub progress: Progress,
    pub artifacts: Vec<Artifact>,
    pub created: Millis,
}

/// What was submitted; never changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    pub kind: JobKind,
    pub name: String,
    pub config_json: String,
    pub config_hash: String,
    pub files: Vec<File>,
    pub needs: Needs,
    /// Failed attempts after which the job fails.
    pub max_retries: u32,
    pub idempotency_key: Option<String>,
    pub traceparent: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobKind {
    Train,
    /// Scores a model on held-out rows.
    Eval,
    Noop,
}

/// An input in the artifact store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    pub role: String,
    pub name: String,
    pub digest: String,
    pub size: u64,
}

/// Something that an attempt made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    pub kind: String,
    pub name: String,
    pub digest: String,
    pub size: u64,
    pub step: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobState {
    Queued {
        /// After a failed attempt: not before this time.
        not_before: Millis,
    },
    Running {
        token: Token,
        worker: String,
        /// Why the attempt was asked to stop, if it was.
        stopping: Option<String>,
    },
    Succeeded {
        at: Millis,
    },
    Failed {
        at: Millis,
        reason: String,
    },
    Cancelled {
        at: Millis,
        reason: String,
    },
}

impl JobState {
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Succeeded { .. } | Self::Failed { .. } | Self::Cancelled { .. })
    }
}

/// One try on one worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub token: Token,
    pub worker: String,
    pub started: Millis,
    /// The greatest batch of reports that was taken.
    pub batch: u64,
    pub end: Option<AttemptEnd>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptEnd {
    pub at: Millis,
    pub outcome: Outcome,
    pub message: String,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Succeeded,
    /// Configuration, data or model: never repeated.
    BadInput,
    /// Not repeated unchanged.
    OutOfMemory,
    /// Repeated with backoff, counted.
    Failed,
    /// Told to stop.
    Stopped,
    /// The worker is gone: repeated, not counted.
    Lost,
}

/// The last values that were reported.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    pub phase: String,
    pub phase_done: u64,
    pub phase_of: u64,
    pub step: u64,
    pub steps: u64,
    pub loss: Option<f64>,
    pub learning_rate: Option<f64>,
    pub tokens_per_second: Option<f64>,
    pub first_evaluation: Option<f64>,
    pub last_evaluation: Option<f64>,
    pub seconds_left: Option<f64>,
    pub peak_bytes: u64,
    pub samples: Vec<Sample>,
    /// What an evaluation has found.
    pub scores: Option<Scores>,
}

/// How well a model does on rows that it was not trained on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Scores {
    pub rows: u64,
    pub tokens: u64,
    /// Nats a token.
    pub loss: f64,
    pub perplexity: f64,
    pub calls: Option<CallScores>,
}

/// Shares of the rows that make calls.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct CallScores {
    pub rows: u64,
    pub valid_json: f64,
    pub schema_valid: f64,
    pub names_match: f64,
    pub exact_match: f64,
}

/// A held-out question and the answer of the model after `step` steps.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Sample {
    pub step: u64,
    pub prompt: String,
    pub wanted: String,
    pub answer: String,
}

impl Job {
    pub fn new(id: JobId, spec: JobSpec, now: Millis) -> Self {
        Self {
            id,
            spec,
            state: JobState::Queued { not_before: now },
            attempts: Vec::new(),
            failures: 0,
            progress: Progress { phase: "queued".into(), ..Progress::default() },
            artifacts: Vec::new(),
            created: now,
        }
    }

    /// The token under which writes are taken; none unless the job runs.
    pub fn current_token(&self) -> Option<Token> {
        match self.state {
            JobState::Running { token, .. } => Some(token),
            _ => None,
        }
    }

    /// The newest committed checkpoint.
    pub fn checkpoint(&self) -> Option<&Artifact> {
        self.artifacts.iter().filter(|a| a.kind == "checkpoint").max_by_key(|a| a.step)
    }

    pub(crate) fn attempt_mut(&mut self, token: Token) -> Option<&mut Attempt> {
        self.attempts.iter_mut().rev().find(|a| a.token == token)
    }
}
