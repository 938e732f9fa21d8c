//! What an engine starts from, and how it goes back when storing has failed.

use super::limits::Limits;
use super::secrets::{Secrets, Seed};
use super::state::Engine;
use crate::attempt::Attempt;
use crate::ids::{JobId, Now, Token};
use crate::job::{Job, JobState};
use crate::worker::Worker;

/// What must not be given a second time, though no job at hand has it: the job may be one that
/// cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserved {
    /// The greatest that were ever given.
    pub job: JobId,
    pub token: Token,
    /// Idempotency keys of jobs that cannot be read.
    pub keys: Vec<(String, JobId)>,
}

impl Default for Reserved {
    fn default() -> Self {
        Self {
            job: JobId(0),
            token: Token(0),
            keys: Vec::new(),
        }
    }
}

impl Engine {
    /// An engine over the jobs of an earlier one. Workers register again; running attempts have one
    /// lease from `now` on to be claimed, so that a restart is invisible to a job that goes on.
    /// `seed` is never used twice.
    pub fn new(limits: Limits, jobs: Vec<Job>, now: Now, seed: Seed) -> Self {
        let mut engine = Self {
            limits,
            jobs: Default::default(),
            keys: Default::default(),
            queue: Default::default(),
            shares: Default::default(),
            dependents: Default::default(),
            running: Default::default(),
            time_limits: Default::default(),
            workers: Default::default(),
            sessions: Default::default(),
            drains: Default::default(),
            woken: Default::default(),
            replaced: Default::default(),
            inherited: Default::default(),
            next_job: 1,
            next_attempt: 1,
            secrets: Secrets::new(seed),
        };
        engine.restore(jobs, now);
        engine.inherited = engine.running.keys().copied().collect();
        engine
    }

    /// Gives out no number and no key that is `reserved`.
    pub fn reserve(&mut self, reserved: Reserved) {
        self.next_job = self.next_job.max(reserved.job.0 + 1);
        self.next_attempt = self.next_attempt.max(reserved.token.number() + 1);
        for (key, job) in reserved.keys {
            self.keys.entry(key).or_insert(job);
        }
    }

    /// Everything that was handled so far is durable.
    pub fn settled(&mut self) {
        self.jobs.settled();
        self.drains.settled();
        self.woken.clear();
        self.replaced.clear();
    }

    /// What was handled since [`Self::settled`] could not be stored: jobs and drains are again what
    /// they were then.
    ///
    /// Sessions, leases and what workers said of themselves stay; who was to be woken waits again.
    /// Tokens that nobody got are not given again. A worker that came back without its attempt has
    /// not come: nobody was told its session, and it presents the one before when it asks again.
    pub fn take_back(&mut self, now: Now) {
        for (id, before) in self.jobs.take_changes() {
            self.forget(id);
            match before {
                Some(job) => self.adopt(job, now),
                None => self.next_job = self.next_job.min(id.0),
            }
        }
        self.undo_replacements();
        self.reassign();
        self.drains.take_back();
        self.mark_drained();
        for name in std::mem::take(&mut self.woken) {
            if let Some(mut worker) = self.workers.get_mut(&name) {
                worker.woken_at = None;
                worker.waiting = worker.connected && worker.assigned.is_none();
            }
        }
    }

    /// Jobs are `jobs` and no others, and nothing is reserved but what they have; sessions and
    /// leases stay. Ended jobs that are not among them come by [`Self::adopt_ended`].
    pub fn restore(&mut self, jobs: Vec<Job>, now: Now) {
        self.jobs = Default::default();
        self.keys.clear();
        self.queue.clear();
        self.shares.clear();
        self.dependents.clear();
        self.running.clear();
        self.time_limits.clear();
        for job in jobs {
            self.adopt(job, now);
        }
        self.undo_replacements();
        self.reassign();
        self.mark_drained();
    }

    /// Workers whose loss of an attempt is not known to be durable are who they were.
    fn undo_replacements(&mut self) {
        for (name, before) in std::mem::take(&mut self.replaced) {
            if let Some(worker) = self.workers.get(&name) {
                self.sessions.remove(&worker.session);
            }
            if before.connected {
                self.sessions.insert(before.session, name);
            }
            self.workers.insert(before);
        }
    }

    fn adopt(&mut self, mut job: Job, now: Now) {
        self.next_job = self.next_job.max(job.id.0 + 1);
        let highest = job
            .attempts
            .iter()
            .map(|a| a.token.number())
            .max()
            .unwrap_or(0);
        self.next_attempt = self.next_attempt.max(highest + 1);
        if let Some(key) = &job.spec.idempotency_key {
            self.keys.insert(key.clone(), job.id);
        }
        match &mut job.state {
            JobState::Queued { not_before } => {
                // The clock that it was stored by may have been another one.
                *not_before = (*not_before).min(now.steady.plus(self.limits.max_backoff));
                self.queue.insert(&job);
            }
            JobState::Running { token, .. } => {
                let token = *token;
                self.running.insert(token, job.id);
                let passed = job
                    .attempt(token)
                    .map_or(0, |attempt| now.wall.0.saturating_sub(attempt.started.0));
                self.limit_time(now, token, job.spec.time_limit, passed);
                let until = now.steady.plus(self.limits.lease);
                for holder in job.attempt(token).into_iter().flat_map(Attempt::holding) {
                    if !self.workers.contains(holder.0) {
                        let absent = Worker::absent(holder, token, now.wall, until);
                        self.workers.insert(absent);
                    }
                }
            }
            _ => {}
        }
        self.shares.add(&job);
        self.dependents.insert(&job);
        self.jobs.adopt(job);
    }

    fn forget(&mut self, id: JobId) {
        let Some(job) = self.jobs.forget(id) else {
            return;
        };
        self.queue.remove(id);
        self.shares.take(&job);
        self.dependents.remove(&job);
        if let JobState::Running { token, .. } = job.state {
            self.running.remove(&token);
            self.time_limits.set(&token, None);
        }
        // A job that was removed in the same batch may have it back already.
        if let Some(key) = &job.spec.idempotency_key
            && self.keys.get(key) == Some(&id)
        {
            self.keys.remove(key);
        }
    }

    /// Gives every worker the attempt that the jobs say it holds.
    fn reassign(&mut self) {
        self.workers.change_all(|worker| worker.assigned = None);
        for (&token, id) in &self.running {
            let attempt = self.jobs.get(id).and_then(|job| job.attempt(token));
            for name in attempt.into_iter().flat_map(Attempt::holders) {
                if let Some(mut worker) = self.workers.get_mut(name) {
                    worker.assigned = Some(token);
                    worker.waiting = false;
                }
            }
        }
    }
}
