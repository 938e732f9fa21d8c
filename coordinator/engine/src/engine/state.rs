//! The state that events change, what can be read of it, and the one way by which a job goes from
//! state to state.
//!
//! Transitions are in the files beside this one, one subject a file; none is here.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::by_time::ByTime;
use super::dependents::Dependents;
use super::drains::Drains;
use super::jobs::Jobs;
use super::limits::Limits;
use super::queue::Queue;
use super::roster::Roster;
use super::secrets::Secrets;
use super::share::Shares;
use crate::ids::{JobId, SessionId, Token};
use crate::job::Job;
use crate::worker::Worker;

/// All jobs and all workers; of ended jobs what must be known of them.
#[derive(Debug)]
pub struct Engine {
    pub(super) limits: Limits,
    pub(super) jobs: Jobs,
    pub(super) keys: HashMap<String, JobId>,
    /// Jobs that wait for a worker.
    pub(super) queue: Queue,
    /// What each owner of jobs holds and has used.
    pub(super) shares: Shares,
    pub(super) dependents: Dependents,
    pub(super) running: HashMap<Token, JobId>,
    /// When attempts reach the time limit of their job, on the steady clock.
    pub(super) time_limits: ByTime<Token>,
    pub(super) workers: Roster,
    pub(super) sessions: HashMap<SessionId, String>,
    /// What operators have said; [`Worker::drained`] has it too, for who is there.
    pub(super) drains: Drains,
    /// Who was woken since [`Self::settled`] and has not asked for work since.
    pub(super) woken: BTreeSet<String>,
    /// Workers as they were before they came back without their attempt, since [`Self::settled`].
    pub(super) replaced: BTreeMap<String, Worker>,
    /// Attempts from before the start of the coordinator.
    pub(super) inherited: HashSet<Token>,
    pub(super) next_job: u64,
    /// The number of the next attempt among all.
    pub(super) next_attempt: u64,
    pub(super) secrets: Secrets,
}

impl Engine {
    /// The job `id`, if it is at hand: it has not ended, or was recalled for an event.
    pub fn job(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(&id)
    }

    /// The jobs that are at hand, oldest first: all that have not ended.
    pub fn jobs(&self) -> impl DoubleEndedIterator<Item = &Job> {
        self.jobs.values()
    }

    /// Moves job `id` on by `change`, and its owner's share with it, which counts states and
    /// attempts; none where it is not at hand. Nothing else changes the state of a job, but to ask
    /// a running attempt to stop, which no share counts.
    pub(super) fn move_on<T>(
        &mut self,
        id: JobId,
        change: impl FnOnce(&mut Job) -> T,
    ) -> Option<T> {
        let job = self.jobs.get_mut(&id)?;
        self.shares.take(job);
        let made = change(job);
        self.shares.add(job);
        Some(made)
    }

    pub fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values()
    }

    /// The worker whose session it is.
    pub fn worker_of(&self, session: SessionId) -> Option<&Worker> {
        self.workers.get(self.sessions.get(&session)?)
    }

    /// The job that holds `token` now.
    pub fn job_of(&self, token: Token) -> Option<JobId> {
        self.running.get(&token).copied()
    }

    /// How many jobs that wait are offered to workers before `id`.
    pub fn queued_before(&self, id: JobId) -> usize {
        self.queue.before(id, &self.shares)
    }

    /// Whether anything needs an artifact that job `of` has let go of, whose configuration has the
    /// hash `config_hash`: a job has it, or a twin of that job runs and may be about to commit it,
    /// since the same request makes the same bytes.
    pub fn may_need(&self, digest: &str, of: JobId, config_hash: &str) -> bool {
        let is_twin = |job: &Job| {
            job.id != of && job.current_token().is_some() && job.spec.config_hash == config_hash
        };
        self.needs(digest) || self.jobs.values().any(is_twin)
    }

    /// Whether a job needs the artifact `digest`, ended ones included.
    pub fn needs(&self, digest: &str) -> bool {
        let at_hand = |job: &Job| job.digests().any(|needed| needed == digest);
        self.jobs.ended().needed().contains(digest) || self.jobs.values().any(at_hand)
    }

    /// Digests of everything in the artifact store that a job needs, ended ones included; some of
    /// them more than once.
    pub fn digests(&self) -> impl Iterator<Item = &str> {
        let away = self.jobs.ended().needed().digests();
        away.chain(self.jobs.values().flat_map(Job::digests))
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }
}
