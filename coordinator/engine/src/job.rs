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
//!
//! A job that comes after others is `Queued` too until they have ended, but no worker is offered it.
//!
//! `pause` takes a job that is queued, or the attempt of a running one once it has saved, to
//! `Paused`; `resume` takes it back to `Queued`, and `cancel` to `Cancelled`. A drain that does not
//! wait takes the attempt, once it has saved, back to `Queued`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::attempt::Attempt;
use crate::ids::{JobId, Millis, Now, Token};
use crate::progress::Progress;
use crate::prune::Pruned;
use crate::worker::Needs;

const DAY_MS: u64 = 24 * 3600 * 1000;

/// A job with everything that is known of it, but for metrics and logs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub id: JobId,
    pub spec: JobSpec,
    pub state: JobState,
    pub attempts: Vec<Attempt>,
    /// Attempts that failed by themselves; lost workers do not count.
    pub failures: u32,
    /// Workers that were lost with the job since it last saved anything.
    #[serde(default)]
    pub lost_in_a_row: u32,
    pub progress: Progress,
    pub artifacts: Vec<Artifact>,
    pub created: Millis,
    #[serde(default)]
    pub pruned: Pruned,
    /// Those of [`JobSpec::after`] whose end it still waits for; none once it has ended itself.
    #[serde(default)]
    pub waits_for: Vec<JobId>,
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
    /// Milliseconds after which an attempt is asked to save and stop, and the job is over.
    #[serde(default)]
    pub time_limit: Option<u64>,
    /// Checkpoints that stay; older ones go as newer ones come. 0 is all.
    #[serde(default)]
    pub checkpoints_to_keep: u32,
    /// Jobs of a greater priority start first.
    #[serde(default)]
    pub priority: i32,
    /// The job that this one does again; it began with that one's checkpoint, unless `from_start` is
    /// set.
    #[serde(default)]
    pub retry_of: Option<JobId>,
    /// It does that one again from nothing, and not from its checkpoint.
    #[serde(default)]
    pub from_start: bool,
    /// The token that submitted it, by its name; empty where an earlier version stored the job.
    #[serde(default)]
    pub owner: String,
    #[serde(default)]
    pub after: After,
    pub idempotency_key: Option<String>,
    pub traceparent: String,
}

/// Jobs that have to end before a job may start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct After {
    pub jobs: Vec<JobId>,
    /// However they end; otherwise they have to succeed.
    pub any: bool,
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
    pub role: FileRole,
    pub name: String,
    pub digest: String,
    pub size: u64,
}

/// What an input is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileRole {
    Train,
    Eval,
    /// Of another job, to be scored.
    Adapter,
}

/// What an attempt makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArtifactKind {
    Checkpoint,
    Adapter,
}

impl fmt::Display for ArtifactKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Checkpoint => "checkpoint",
            Self::Adapter => "adapter",
        })
    }
}

/// Something that an attempt made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    pub kind: ArtifactKind,
    pub name: String,
    pub digest: String,
    pub size: u64,
    pub step: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobState {
    Queued {
        /// After a failed attempt: not before this time, on the steady clock.
        not_before: Millis,
    },
    Running {
        token: Token,
        worker: String,
        /// What the attempt was asked to stop for, if it was.
        stopping: Option<Stop>,
    },
    /// Waits for nothing but a person.
    Paused {
        at: Millis,
        reason: String,
    },
    Succeeded {
        at: Millis,
    },
    Failed {
        at: Millis,
        reason: String,
        /// Of the catalogue of errors; empty for a job that failed before codes were kept.
        #[serde(default)]
        code: String,
    },
    Cancelled {
        at: Millis,
        reason: String,
    },
}

/// A request to save and stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredStop")]
pub struct Stop {
    pub reason: String,
    pub then: AfterStop,
}

/// Where a job goes whose attempt has stopped as it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AfterStop {
    Cancelled,
    Paused,
    /// Back to the queue at once: its worker was drained.
    Queued,
}

/// Stored before jobs could be paused, a stop was its reason alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum StoredStop {
    Reason(String),
    Stop { reason: String, then: AfterStop },
}

impl From<StoredStop> for Stop {
    fn from(stored: StoredStop) -> Self {
        match stored {
            StoredStop::Reason(reason) => Self {
                reason,
                then: AfterStop::Cancelled,
            },
            StoredStop::Stop { reason, then } => Self { reason, then },
        }
    }
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Final {
    Succeeded,
    Failed,
    Cancelled,
}

impl Final {
    pub const ALL: [Self; 3] = [Self::Succeeded, Self::Failed, Self::Cancelled];

    /// As messages and the phase of a job have it; [`JobState::word`] of an ended one is this.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl JobState {
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Succeeded { .. } | Self::Failed { .. } | Self::Cancelled { .. }
        )
    }

    /// When nothing was left to happen to the job; none before that.
    pub const fn ended(&self) -> Option<Millis> {
        match self {
            Self::Succeeded { at } | Self::Failed { at, .. } | Self::Cancelled { at, .. } => {
                Some(*at)
            }
            Self::Queued { .. } | Self::Running { .. } | Self::Paused { .. } => None,
        }
    }

    /// How the job ended; none where it has not.
    pub(crate) const fn end(&self) -> Option<Final> {
        match self {
            Self::Succeeded { .. } => Some(Final::Succeeded),
            Self::Failed { .. } => Some(Final::Failed),
            Self::Cancelled { .. } => Some(Final::Cancelled),
            Self::Queued { .. } | Self::Running { .. } | Self::Paused { .. } => None,
        }
    }

    /// As messages and the phase of a job have it; a test of the coordinator compares it with the
    /// word of the wire.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Queued { .. } => "queued",
            Self::Running { .. } => "running",
            Self::Paused { .. } => "paused",
            Self::Succeeded { .. } => Final::Succeeded.word(),
            Self::Failed { .. } => Final::Failed.word(),
            Self::Cancelled { .. } => Final::Cancelled.word(),
        }
    }
}

impl JobSpec {
    /// A job that computes nothing: no worker is asked for more than its answer, and nothing of it
    /// is kept or done again.
    pub fn noop(name: impl Into<String>) -> Self {
        Self {
            kind: JobKind::Noop,
            name: name.into(),
            config_json: String::new(),
            config_hash: String::new(),
            files: Vec::new(),
            needs: Needs::default(),
            max_retries: 0,
            time_limit: None,
            checkpoints_to_keep: 0,
            priority: 0,
            retry_of: None,
            from_start: false,
            owner: String::new(),
            after: After::default(),
            idempotency_key: None,
            traceparent: String::new(),
        }
    }

    /// Whether `other` asks for the same work: what an idempotency key promises.
    pub(crate) fn is_same_request(&self, other: &Self) -> bool {
        let files = |spec: &Self| {
            let mut files: Vec<_> = spec
                .files
                .iter()
                .map(|f| (f.role, f.digest.clone()))
                .collect();
            files.sort();
            files
        };
        let asked = |spec: &Self| {
            let after = spec.after.clone();
            (spec.kind, spec.retry_of, spec.from_start, after)
        };
        asked(self) == asked(other)
            && self.config_hash == other.config_hash
            && files(self) == files(other)
    }
}

impl Job {
    pub fn new(id: JobId, spec: JobSpec, now: Now) -> Self {
        Self {
            id,
            spec,
            state: JobState::Queued {
                not_before: now.steady,
            },
            attempts: Vec::new(),
            failures: 0,
            lost_in_a_row: 0,
            progress: Progress {
                phase: "queued".into(),
                ..Progress::default()
            },
            artifacts: Vec::new(),
            created: now.wall,
            pruned: Pruned::default(),
            waits_for: Vec::new(),
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
        self.artifacts
            .iter()
            .filter(|a| a.kind == ArtifactKind::Checkpoint)
            .max_by_key(|a| a.step)
    }

    /// What a success would have left behind and is not there: who looks for the result must find
    /// one.
    pub fn missing_result(&self) -> Option<&'static str> {
        let has_adapter = || {
            self.artifacts
                .iter()
                .any(|a| a.kind == ArtifactKind::Adapter)
        };
        match self.spec.kind {
            JobKind::Train if !has_adapter() => Some("has committed no adapter"),
            JobKind::Eval if self.progress.scores.is_none() => Some("has reported no scores"),
            JobKind::Train | JobKind::Eval | JobKind::Noop => None,
        }
    }

    /// Digests of everything in the artifact store that the job needs.
    pub fn digests(&self) -> impl Iterator<Item = &str> {
        self.needed().map(|(digest, _)| digest)
    }

    /// As [`Self::digests`], with their bytes.
    pub(crate) fn needed(&self) -> impl Iterator<Item = (&str, u64)> {
        let files = self.spec.files.iter();
        let artifacts = self.artifacts.iter();
        files
            .map(|file| (file.digest.as_str(), file.size))
            .chain(artifacts.map(|artifact| (artifact.digest.as_str(), artifact.size)))
    }

    /// Lets go of the checkpoints beyond those that stay, and gives their digests.
    pub(crate) fn let_old_checkpoints_go(&mut self) -> Vec<String> {
        let mut steps: Vec<u64> = self
            .artifacts
            .iter()
            .filter(|a| a.kind == ArtifactKind::Checkpoint)
            .map(|a| a.step)
            .collect();
        steps.sort_unstable();
        let keep = match self.spec.checkpoints_to_keep {
            0 => steps.len(),
            n => n as usize,
        };
        let Some(&oldest) = steps
            .len()
            .checked_sub(keep)
            .and_then(|first| steps.get(first))
        else {
            return Vec::new();
        };
        let old = |a: &Artifact| a.kind == ArtifactKind::Checkpoint && a.step < oldest;
        let gone = self
            .artifacts
            .iter()
            .filter(|a| old(a))
            .map(|a| a.digest.clone())
            .collect();
        self.artifacts.retain(|a| !old(a));
        gone
    }

    /// Worker-milliseconds of its attempts that have ended, by the day of their end.
    pub(crate) fn used(&self) -> BTreeMap<u64, u64> {
        let mut by_day = BTreeMap::new();
        for attempt in &self.attempts {
            let Some(end) = &attempt.end else { continue };
            let ms = end.at.0.saturating_sub(attempt.started.0);
            let used: &mut u64 = by_day.entry(end.at.0 / DAY_MS).or_default();
            *used = used.saturating_add(ms.saturating_mul(attempt.size().into()));
        }
        by_day.retain(|_, used| *used > 0);
        by_day
    }

    /// The attempt `token`.
    pub fn attempt(&self, token: Token) -> Option<&Attempt> {
        self.attempts.iter().rev().find(|a| a.token == token)
    }

    /// The number of the attempt `token` within the job, from 1: what people are shown of it.
    pub fn attempt_number(&self, token: Token) -> Option<u64> {
        (1..)
            .zip(&self.attempts)
            .find_map(|(number, attempt)| (attempt.token == token).then_some(number))
    }

    pub(crate) fn attempt_mut(&mut self, token: Token) -> Option<&mut Attempt> {
        self.attempts.iter_mut().rev().find(|a| a.token == token)
    }
}
