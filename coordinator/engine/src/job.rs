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

use crate::ids::{JobId, Millis, Now, Token};
use crate::number;
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
    /// Workers that were lost with the job since it last saved anything.
    #[serde(default)]
    pub lost_in_a_row: u32,
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
    /// Milliseconds after which an attempt is asked to save and stop, and the job is over.
    #[serde(default)]
    pub time_limit: Option<u64>,
    /// Checkpoints that stay; older ones go as newer ones come. 0 is all.
    #[serde(default)]
    pub checkpoints_to_keep: u32,
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
        /// After a failed attempt: not before this time, on the steady clock.
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
        /// Of the catalogue of errors; empty for a job that failed before codes were kept.
        #[serde(default)]
        code: String,
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

/// One try on one worker, or on several that train together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub token: Token,
    /// The only worker, or the first one, which reports progress and saves.
    pub worker: String,
    /// Which of all workers of that name it is.
    #[serde(default)]
    pub instance: String,
    pub started: Millis,
    /// The greatest batch of reports that was taken from `worker`.
    pub batch: u64,
    pub end: Option<AttemptEnd>,
    /// The others, from rank 1 on.
    #[serde(default)]
    pub others: Vec<Member>,
    /// `worker` has lost another and lets the attempt go; what happened, the other has yet to tell.
    #[serde(default)]
    pub let_go: bool,
    #[serde(default)]
    pub meeting: Option<Meeting>,
}

/// A worker that trains with the first one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub worker: String,
    #[serde(default)]
    pub instance: String,
    /// The greatest batch of reports that was taken.
    pub batch: u64,
    /// It has let go of the attempt.
    pub done: bool,
}

/// A worker as it stood when an attempt began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub worker: String,
    pub instance: String,
}

/// Where the workers of an attempt find the first of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meeting {
    pub addresses: Vec<String>,
    pub secret: Vec<u8>,
}

impl Attempt {
    pub fn new(token: Token, first: Holder, others: Vec<Holder>, started: Millis) -> Self {
        let member = |Holder { worker, instance }| Member { worker, instance, batch: 0, done: false };
        let others = others.into_iter().map(member).collect();
        let Holder { worker, instance } = first;
        Self { token, worker, instance, started, batch: 0, end: None, others, let_go: false, meeting: None }
    }

    /// Workers that have not let go of it, in the order of ranks.
    pub fn holders(&self) -> impl Iterator<Item = &str> {
        self.holding().map(|(worker, _)| worker)
    }

    /// Names and instances of the holders.
    pub(crate) fn holding(&self) -> impl Iterator<Item = (&str, &str)> {
        let open = self.end.is_none();
        let first = Some((self.worker.as_str(), self.instance.as_str())).filter(|_| open && !self.let_go);
        let others = self.others.iter().filter(move |m| open && !m.done);
        first.into_iter().chain(others.map(|m| (m.worker.as_str(), m.instance.as_str())))
    }

    /// The place of `worker`, where it takes part.
    pub fn rank(&self, worker: &str) -> Option<u32> {
        if self.worker == worker {
            return Some(0);
        }
        self.others.iter().position(|m| m.worker == worker).map(|i| i as u32 + 1)
    }

    pub fn size(&self) -> u32 {
        self.others.len() as u32 + 1
    }

    /// The worker of `rank` holds it no more; its name, where there is one.
    pub(crate) fn let_go(&mut self, rank: u32) -> Option<String> {
        match rank.checked_sub(1) {
            None => {
                self.let_go = true;
                Some(self.worker.clone())
            }
            Some(i) => {
                let member = self.others.get_mut(i as usize)?;
                member.done = true;
                Some(member.worker.clone())
            }
        }
    }

    /// The greatest batch of the worker of `rank`.
    pub(crate) fn batch_mut(&mut self, rank: u32) -> Option<&mut u64> {
        match rank.checked_sub(1) {
            None => Some(&mut self.batch),
            Some(i) => self.others.get_mut(i as usize).map(|m| &mut m.batch),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptEnd {
    pub at: Millis,
    pub outcome: Outcome,
    pub message: String,
    /// The error code of what `message` tells; empty where it has none.
    #[serde(default)]
    pub code: String,
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
    /// The worker's disk has no room: repeated elsewhere first, with growing waits, not counted.
    NoRoom,
    /// Told to stop.
    Stopped,
    /// The worker is gone: repeated, not counted.
    Lost,
    /// Another worker of the attempt is gone, which tells itself what happened.
    PeerLost,
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
    #[serde(with = "number::optional")]
    pub loss: Option<f64>,
    #[serde(with = "number::optional")]
    pub learning_rate: Option<f64>,
    #[serde(with = "number::optional")]
    pub tokens_per_second: Option<f64>,
    #[serde(with = "number::optional")]
    pub first_evaluation: Option<f64>,
    #[serde(with = "number::optional")]
    pub last_evaluation: Option<f64>,
    #[serde(with = "number::optional")]
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
    #[serde(with = "number")]
    pub loss: f64,
    #[serde(with = "number")]
    pub perplexity: f64,
    pub calls: Option<CallScores>,
}

/// Shares of the rows that make calls.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct CallScores {
    pub rows: u64,
    #[serde(with = "number")]
    pub valid_json: f64,
    #[serde(with = "number")]
    pub schema_valid: f64,
    #[serde(with = "number")]
    pub names_match: f64,
    #[serde(with = "number")]
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

impl JobSpec {
    /// Whether `other` asks for the same work: what an idempotency key promises.
    pub(crate) fn is_same_request(&self, other: &Self) -> bool {
        let files = |spec: &Self| {
            let mut files: Vec<_> = spec.files.iter().map(|f| (f.role.clone(), f.digest.clone())).collect();
            files.sort();
            files
        };
        (self.kind, &self.config_hash) == (other.kind, &other.config_hash) && files(self) == files(other)
    }
}

impl Job {
    pub fn new(id: JobId, spec: JobSpec, now: Now) -> Self {
        Self {
            id,
            spec,
            state: JobState::Queued { not_before: now.steady },
            attempts: Vec::new(),
            failures: 0,
            lost_in_a_row: 0,
            progress: Progress { phase: "queued".into(), ..Progress::default() },
            artifacts: Vec::new(),
            created: now.wall,
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

    /// What a success would have left behind and is not there: who looks for the result must find one.
    pub fn missing_result(&self) -> Option<&'static str> {
        let has_adapter = || self.artifacts.iter().any(|a| a.kind == "adapter");
        match self.spec.kind {
            JobKind::Train if !has_adapter() => Some("has committed no adapter"),
            JobKind::Eval if self.progress.scores.is_none() => Some("has reported no scores"),
            JobKind::Train | JobKind::Eval | JobKind::Noop => None,
        }
    }

    /// Digests of everything in the artifact store that the job needs.
    pub fn digests(&self) -> impl Iterator<Item = &str> {
        let files = self.spec.files.iter().map(|file| file.digest.as_str());
        files.chain(self.artifacts.iter().map(|artifact| artifact.digest.as_str()))
    }

    /// Lets go of the checkpoints beyond those that stay, and gives their digests.
    pub(crate) fn let_old_checkpoints_go(&mut self) -> Vec<String> {
        let mut steps: Vec<u64> = self.artifacts.iter().filter(|a| a.kind == "checkpoint").map(|a| a.step).collect();
        steps.sort_unstable();
        let keep = match self.spec.checkpoints_to_keep {
            0 => steps.len(),
            n => n as usize,
        };
        let Some(&oldest) = steps.len().checked_sub(keep).and_then(|first| steps.get(first)) else { return Vec::new() };
        let old = |a: &Artifact| a.kind == "checkpoint" && a.step < oldest;
        let gone = self.artifacts.iter().filter(|a| old(a)).map(|a| a.digest.clone()).collect();
        self.artifacts.retain(|a| !old(a));
        gone
    }

    /// The attempt `token`.
    pub fn attempt(&self, token: Token) -> Option<&Attempt> {
        self.attempts.iter().rev().find(|a| a.token == token)
    }

    pub(crate) fn attempt_mut(&mut self, token: Token) -> Option<&mut Attempt> {
        self.attempts.iter_mut().rev().find(|a| a.token == token)
    }
}
