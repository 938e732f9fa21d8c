//! Which workers are kept free for a job that needs several, and until when shorter jobs may use
//! them.
//!
//! The first such job of the queue keeps the workers that fit it. A job behind it runs on them only
//! if its time limit ends before the first one is expected to start, so that it delays nobody: EASY
//! backfilling (Lifka, "The ANL/IBM SP Scheduling System", 1995). If nobody knows when the first one
//! starts, nothing runs before it.

use super::state::Engine;
use crate::ids::{JobId, Millis, Now};
use crate::job::{Job, JobState};
use crate::placement::candidates;
use crate::worker::Worker;

/// What a worker is kept free for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservation {
    pub job: JobId,
    /// When the job is expected to start, on the steady clock; none where that is not known.
    pub starts: Option<Millis>,
}

impl Reservation {
    /// Whether `job` would be over before the reserved time.
    pub(super) fn leaves_time_for(&self, now: Now, job: &Job) -> bool {
        let ends = job.spec.time_limit.map(|limit| now.steady.plus(limit));
        ends.zip(self.starts)
            .is_some_and(|(ends, starts)| ends <= starts)
    }
}

impl Engine {
    /// What `job` reserves, which fits `first` and waits for others that are busy.
    pub(super) fn reservation(&self, now: Now, job: &Job, first: &Worker) -> Reservation {
        let wanted = job.spec.needs.workers.saturating_sub(1);
        let others = candidates(&job.spec.needs, first, self.workers.values());
        let mut free_at: Vec<Millis> = others
            .filter_map(|worker| self.free_at(now, worker))
            .collect();
        free_at.sort_unstable();
        Reservation {
            job: job.id,
            starts: wanted
                .checked_sub(1)
                .and_then(|last| free_at.get(last).copied()),
        }
    }

    /// When `worker` is done with what it does, by what that says itself and by its time limit; at
    /// once where it is asked to stop.
    fn free_at(&self, now: Now, worker: &Worker) -> Option<Millis> {
        let Some(token) = worker.assigned else {
            return Some(now.steady);
        };
        let job = self.running.get(&token).and_then(|id| self.jobs.get(id))?;
        if matches!(
            job.state,
            JobState::Running {
                stopping: Some(_),
                ..
            }
        ) {
            return Some(now.steady);
        }
        let (limit, left) = (self.time_limits.get(&token), job.progress.seconds_left);
        let expected = left
            .filter(|s| s.is_finite())
            .map(|s| now.steady.plus((s.max(0.0) * 1000.0) as u64));
        expected.into_iter().chain(limit).min()
    }
}
