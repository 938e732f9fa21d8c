//! Ended jobs leave the engine's memory once they are durable, and come back for as long as an
//! event needs them.
//!
//! Whoever drives the engine asks [`Engine::away`] before it hands over an event, gives the jobs
//! that the event needs to [`Engine::recall`], and calls [`Engine::put_ended_away`] once everything
//! is settled or taken back. Transitions do not know the difference: a job that they may name is at
//! hand.

use super::state::Engine;
use crate::ended::Ended;
use crate::event::Event;
use crate::ids::JobId;
use crate::job::{Final, Job};

impl Engine {
    /// Takes `ended` for what is durable of ended jobs that are not at hand.
    pub fn adopt_ended(&mut self, ended: Vec<Ended>) {
        for mut job in ended {
            self.next_job = self.next_job.max(job.id.0 + 1);
            if let Some(key) = job.idempotency_key() {
                self.keys.insert(key.to_owned(), job.id);
            }
            let used = job.take_used();
            if self.jobs.adopt_ended(job) {
                used.into_iter().for_each(|used| self.shares.add_used(used));
            }
        }
    }

    /// Ended jobs that `event` needs and that are not at hand.
    pub fn away(&self, event: &Event) -> Vec<JobId> {
        let (named, key) = match event {
            Event::Submit { spec } => (None, spec.idempotency_key.as_ref()),
            Event::Retry {
                job,
                idempotency_key,
                ..
            } => (Some(*job), idempotency_key.as_ref()),
            Event::Cancel { job, .. }
            | Event::Pause { job, .. }
            | Event::Resume { job, .. }
            | Event::RemoveJob { job }
            | Event::Prune { job, .. } => (Some(*job), None),
            // What workers say is of jobs that run.
            _ => return Vec::new(),
        };
        let of_key = key.and_then(|key| self.keys.get(key)).copied();
        let mut all: Vec<JobId> = named.into_iter().chain(of_key).collect();
        all.retain(|id| self.jobs.is_away(*id));
        all.dedup();
        all
    }

    /// `job`, which is not at hand, is as the store has it.
    pub fn recall(&mut self, job: Job) {
        self.jobs.recall(job);
    }

    /// Ended jobs that are durable are at hand no more: what is kept of them is an [`Ended`] each.
    pub fn put_ended_away(&mut self) {
        self.jobs.put_ended_away();
    }

    /// How many jobs ended in each way, of those that are not at hand.
    pub fn ended_away(&self) -> [(Final, u64); 3] {
        Final::ALL.map(|how| (how, self.jobs.ended().count(how)))
    }
}
