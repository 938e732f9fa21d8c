//! Which waiting jobs may start at all: not while the queue is drained, and of each owner only as
//! many as its limit leaves room for.
//!
//! The places that a limit leaves go to an owner's jobs by priority and number. A job holds one
//! while enough workers that fit it are connected, be they busy or not: newer jobs of its owner do
//! not keep it waiting, and one that fits nobody keeps no other waiting.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::line::Turn;
use super::share::Usage;
use super::state::Engine;
use crate::event::Refusal;
use crate::ids::{JobId, Now};
use crate::job::{Job, JobState};
use crate::placement::fits;
use crate::worker::{DeviceClass, Needs, Worker};

impl Engine {
    /// Jobs that may start now and whose needs pass `fits`, in their order.
    pub(super) fn startable<'a>(
        &'a self,
        now: Now,
        fits: impl FnMut(&Needs) -> bool + 'a,
    ) -> impl Iterator<Item = &'a Job> {
        let is_drained = self.queue_drain().is_some();
        let mut places: HashMap<&'a str, Places> = HashMap::new();
        let turn = move |id: JobId| {
            let Some(job) = self.jobs.get(&id) else {
                return Turn::Pass;
            };
            let Some(most) = self.limits.max_running_per_user else {
                return ready(job, now);
            };
            let owner = job.spec.owner.as_str();
            let places = places
                .entry(owner)
                .or_insert_with(|| self.places(now, owner, most));
            places.turn(job)
        };
        // A queue that is drained is not walked: up to the first job that fits, that may be all of it.
        let fitting = (!is_drained).then(|| self.queue.fitting(&self.shares, fits, turn));
        fitting
            .into_iter()
            .flatten()
            .filter_map(move |id| self.jobs.get(&id))
    }

    /// The jobs of `owner` that may start before it has `most` that run.
    fn places(&self, now: Now, owner: &str, most: u64) -> Places {
        let left = most.saturating_sub(self.shares.usage(owner).running);
        let fits_somebody = |needs: &Needs| self.fits_somebody(needs);
        let turn = |id: JobId| {
            let job = self.jobs.get(&id);
            job.map_or(Turn::Pass, |job| ready(job, now))
        };
        let waiting = self.queue.of(owner, fits_somebody, turn);
        let first = waiting.take(usize::try_from(left).unwrap_or(usize::MAX));
        Places::of(first.filter_map(|id| self.jobs.get(&id)))
    }

    /// Whether enough workers of one class could take a job with these `needs` if none were busy.
    fn fits_somebody(&self, needs: &Needs) -> bool {
        let takes_it = |w: &&Worker| w.connected && w.takes_work() && fits(needs, w);
        let mut of_class: BTreeMap<DeviceClass, usize> = BTreeMap::new();
        // Mostly the first few are enough, and there may be thousands.
        self.workers.values().filter(takes_it).any(|worker| {
            let found = of_class.entry(worker.platform.device).or_default();
            *found += 1;
            *found >= needs.workers.max(1)
        })
    }

    /// Whether `job` waits because its owner has as many jobs that run, or may start before it, as
    /// it may have.
    pub fn waits_for_a_place(&self, now: Now, job: &Job) -> bool {
        let owner = job.spec.owner.as_str();
        let limit = self.limits.max_running_per_user;
        limit.is_some_and(|most| {
            is_ready(job, now)
                && self.fits_somebody(&job.spec.needs)
                && self.places(now, owner, most).turn(job) != Turn::Take
        })
    }

    /// # Errors
    /// `owner` has as many waiting jobs as it may.
    pub(super) fn may_queue(&self, owner: &str) -> Result<(), Refusal> {
        let waiting = self.shares.usage(owner).waiting;
        match self.limits.max_queued_per_user {
            Some(limit) if waiting >= limit => Err(Refusal::QueueFull {
                owner: owner.to_owned(),
                limit,
            }),
            _ => Ok(()),
        }
    }

    /// What the jobs of `owner` amount to.
    pub fn usage(&self, owner: &str) -> Usage {
        self.shares.usage(owner)
    }
}

/// The jobs of one owner that may start before it has as many that run as it may have.
struct Places {
    jobs: BTreeSet<JobId>,
    /// The priority and the number of the last of them.
    last: Option<(Reverse<i32>, JobId)>,
}

impl Places {
    /// For `jobs`, by priority and number.
    fn of<'a>(jobs: impl Iterator<Item = &'a Job>) -> Self {
        let mut last = None;
        let jobs = jobs.inspect(|job| last = Some(rank(job)));
        let jobs = jobs.map(|job| job.id).collect();
        Self { jobs, last }
    }

    /// Whether `job` has one of them. None of an owner's jobs has behind the last that has one: its
    /// whole line may be waiting there.
    fn turn(&self, job: &Job) -> Turn {
        if self.jobs.contains(&job.id) {
            Turn::Take
        } else if self.last.is_none_or(|last| rank(job) > last) {
            Turn::PassAll
        } else {
            Turn::Pass
        }
    }
}

/// Where a job stands among those of its owner.
fn rank(job: &Job) -> (Reverse<i32>, JobId) {
    (Reverse(job.spec.priority), job.id)
}

fn ready(job: &Job, now: Now) -> Turn {
    if is_ready(job, now) {
        Turn::Take
    } else {
        Turn::Pass
    }
}

/// Whether `job` waits for a worker and for nothing else.
fn is_ready(job: &Job, now: Now) -> bool {
    matches!(job.state, JobState::Queued { not_before } if not_before <= now.steady)
        && job.waits_for.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::job::JobSpec;

    #[test]
    fn a_queue_that_is_drained_is_not_looked_through() {
        let now = Now::both(0);
        let mut engine = Engine::new(Default::default(), Vec::new(), now, [7; 32]);
        let spec = Box::new(JobSpec::noop("x"));
        engine.handle(now, Event::Submit { spec });
        let judged = |engine: &Engine| {
            let mut judged = 0;
            let fits = |_: &Needs| {
                judged += 1;
                true
            };
            let jobs = engine.startable(now, fits).count();
            (jobs, judged)
        };
        assert_eq!(judged(&engine), (1, 1));
        let reason = "upgrade".into();
        engine.handle(now, Event::DrainQueue { reason });
        assert_eq!(judged(&engine), (0, 0));
    }
}
