//! Which job a worker gets when it asks for work.
//!
//! This module changes nothing: the same question has the same answer, whoever asks it.

use super::reservation::Reservation;
use super::state::Engine;
use crate::attempt::{Attempt, Outcome};
use crate::ids::{JobId, Now};
use crate::job::{Job, JobState};
use crate::placement::{ProcessGroup, fits, process_group};
use crate::worker::Worker;

/// What a worker that asks for work is to do.
pub(super) enum Choice {
    Start(JobId, Vec<String>),
    /// Nothing, so that a job of several workers can start when the others are free.
    KeptFor(Reservation),
    Nothing,
}

impl Engine {
    /// What `worker` is to do next: the first job of the queue that may start with it, and those who
    /// take it with it.
    ///
    /// A job that wants several comes before those behind it too: where enough fit and some are
    /// busy, `worker` stays free for it. Meanwhile it takes jobs that end in time by their own limit.
    pub(super) fn choice_for(&self, now: Now, worker: &Worker) -> Choice {
        let mut kept: Option<Reservation> = None;
        for job in self.offered(now, worker) {
            if kept.is_some_and(|kept| !kept.leaves_time_for(now, job))
                || self.is_left_for_another(now, job, worker)
            {
                continue;
            }
            match process_group(&job.spec.needs, worker, self.workers.values()) {
                ProcessGroup::Complete(others) => return Choice::Start(job.id, others),
                ProcessGroup::Busy if kept.is_none() => {
                    kept = Some(self.reservation(now, job, worker))
                }
                ProcessGroup::Busy | ProcessGroup::TooSmall => {}
            }
        }
        kept.map_or(Choice::Nothing, Choice::KeptFor)
    }

    /// Jobs that may start now and fit `worker`, but for those that wait for another one, in their
    /// order.
    fn offered<'a>(&'a self, now: Now, worker: &'a Worker) -> impl Iterator<Item = &'a Job> {
        self.startable(now, |needs| fits(needs, worker))
            .filter(move |job| !self.goes_elsewhere(now, job, worker))
    }

    /// Whether `worker`, which lacks the model of `job`, leaves it for another one that has it: one
    /// that is about to ask for work and is offered this job first. So no job waits for a model.
    ///
    /// What another one is offered does not depend on who else is free. Otherwise a worker could be
    /// woken for a job that it then leaves, over and over.
    fn is_left_for_another(&self, now: Now, job: &Job, worker: &Worker) -> bool {
        let needs = &job.spec.needs;
        if needs.model.is_none() || needs.workers > 1 || worker.has_model_for(needs) {
            return false;
        }
        let head_start = self.limits.head_start;
        let first = |other: &Worker| self.offered(now, other).next().map(|job| job.id);
        self.workers
            .values()
            .filter(|other| other.has_model_for(needs))
            .filter(|other| other.is_about_to_ask(now.steady, head_start))
            .any(|other| first(other) == Some(job.id))
    }

    /// The job of several workers for which `worker` is kept free, if it is.
    pub fn kept_for(&self, now: Now, worker: &Worker) -> Option<Reservation> {
        match self.choice_for(now, worker) {
            Choice::KeptFor(reservation) if worker.is_free() => Some(reservation),
            _ => None,
        }
    }

    /// Whether `job` failed on `worker` and waits for another that fits, on which it has not
    /// failed.
    pub fn goes_elsewhere(&self, now: Now, job: &Job, worker: &Worker) -> bool {
        let JobState::Queued { not_before } = job.state else {
            return false;
        };
        let failed_on = |worker: &Worker| {
            let failed = |a: &&Attempt| {
                a.end
                    .as_ref()
                    .is_some_and(|end| matches!(end.outcome, Outcome::Failed | Outcome::NoRoom))
            };
            job.attempts
                .iter()
                .filter(failed)
                .any(|a| a.rank(&worker.name).is_some())
        };
        let is_other = |other: &&Worker| {
            other.connected
                && other.takes_work()
                && !failed_on(other)
                && fits(&job.spec.needs, other)
        };
        let waits =
            job.spec.needs.workers <= 1 && now.steady < not_before.plus(self.limits.elsewhere);
        waits && failed_on(worker) && self.workers.values().any(|other| is_other(&other))
    }
}
