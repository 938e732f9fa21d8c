//! Where a job goes when its attempt has ended.

use qlora_codes::Code;

use super::limits::Limits;
use crate::attempt::Outcome;
use crate::ids::{Millis, Now};
use crate::job::{AfterStop, Job, JobState, Stop};

/// How an attempt ended.
pub(super) struct Ending {
    pub outcome: Outcome,
    pub message: String,
    /// The error code of what `message` tells; empty where it has none.
    pub code: String,
    /// Whether a loss counts against the job. One by a restart of the coordinator does not.
    pub counts: bool,
}

impl Ending {
    pub fn new(outcome: Outcome, message: String) -> Self {
        Self {
            outcome,
            message,
            code: String::new(),
            counts: true,
        }
    }

    /// The state of a job that has failed for `reason`.
    fn failed(&self, at: Millis, reason: String) -> JobState {
        let code = if self.code.is_empty() {
            Code::JobFailed.into()
        } else {
            self.code.clone()
        };
        JobState::Failed { at, reason, code }
    }

    /// The same of a job in `state`: what ends while a drain stops it has stopped, and has neither
    /// failed nor been lost. What would fail anywhere has failed all the same.
    pub fn of(self, state: &JobState) -> Self {
        let is_drained = matches!(
            state,
            JobState::Running {
                stopping: Some(Stop {
                    then: AfterStop::Queued,
                    ..
                }),
                ..
            }
        );
        match self.outcome {
            Outcome::Failed | Outcome::NoRoom | Outcome::Lost | Outcome::PeerLost if is_drained => {
                Self {
                    outcome: Outcome::Stopped,
                    ..self
                }
            }
            _ => self,
        }
    }

    /// Says of a loss that does not count why it does not.
    pub fn explained(mut self) -> Self {
        if self.outcome == Outcome::Lost && !self.counts {
            self.message +=
                " (the coordinator was restarted meanwhile, so this loss does not count)";
        }
        self
    }
}

/// Where a running job goes when its attempt has ended.
pub(super) fn next_state(job: &Job, now: Now, ending: &Ending, limits: Limits) -> JobState {
    let Ending {
        outcome,
        message,
        counts,
        ..
    } = ending;
    let stopping = match &job.state {
        JobState::Running { stopping, .. } => stopping.clone(),
        _ => None,
    };
    let at = now.wall;
    let later = |times: u32| {
        let doubled = limits.backoff << times.min(20);
        JobState::Queued {
            not_before: now.steady.plus(doubled.min(limits.max_backoff)),
        }
    };
    match (*outcome, stopping) {
        (Outcome::Succeeded, _) => JobState::Succeeded { at },
        (_, Some(stop)) => stopped(stop, ending, now),
        (Outcome::BadInput | Outcome::OutOfMemory, None) => ending.failed(at, message.clone()),
        (Outcome::Failed | Outcome::PeerLost, None) if job.failures > job.spec.max_retries => {
            ending.failed(
                at,
                format!("{message} (after {} failed attempts)", job.failures),
            )
        }
        (Outcome::Failed | Outcome::PeerLost, None) => later(job.failures.saturating_sub(1)),
        (Outcome::Lost, None) if !counts => JobState::Queued {
            not_before: now.steady,
        },
        (Outcome::Lost, None) if job.lost_in_a_row >= limits.max_lost => {
            let n = job.lost_in_a_row;
            let reason = format!(
                "{message} ({n} workers were lost one after another while they ran it, and it saved nothing)"
            );
            ending.failed(at, reason)
        }
        (Outcome::NoRoom, None) => later(in_a_row(job, Outcome::NoRoom).saturating_sub(1)),
        // One worker may go for many reasons; from the second on it may be the job.
        (Outcome::Lost, None) if job.lost_in_a_row > 1 => later(job.lost_in_a_row - 2),
        (Outcome::Lost | Outcome::Stopped, None) => JobState::Queued {
            not_before: now.steady,
        },
    }
}

/// Where a job goes that was asked to stop. One that would fail again is neither paused nor queued:
/// to go on would be in vain.
fn stopped(stop: Stop, ending: &Ending, now: Now) -> JobState {
    let Stop { reason, then } = stop;
    let at = now.wall;
    let is_in_vain = matches!(ending.outcome, Outcome::BadInput | Outcome::OutOfMemory);
    match then {
        AfterStop::Cancelled => JobState::Cancelled { at, reason },
        AfterStop::Paused | AfterStop::Queued if is_in_vain => {
            ending.failed(at, ending.message.clone())
        }
        AfterStop::Paused => JobState::Paused { at, reason },
        AfterStop::Queued => JobState::Queued {
            not_before: now.steady,
        },
    }
}

/// How many of the last attempts ended with `outcome`, one after another.
fn in_a_row(job: &Job, outcome: Outcome) -> u32 {
    let ended = job
        .attempts
        .iter()
        .rev()
        .filter_map(|attempt| attempt.end.as_ref());
    ended.take_while(|end| end.outcome == outcome).count() as u32
}

/// Why a job waits again, for the journal; it may not start before `ms` milliseconds have passed.
pub(super) fn requeued_because(job: &Job, ending: &Ending, ms: u64) -> String {
    let why = &ending.message;
    if ending.outcome == Outcome::Lost && ending.counts && job.lost_in_a_row > 1 {
        let (n, seconds) = (job.lost_in_a_row, ms as f64 / 1000.0);
        return format!(
            "{why}; {n} workers were lost with it one after another, it is held for {seconds:.0} s"
        );
    }
    why.clone()
}
