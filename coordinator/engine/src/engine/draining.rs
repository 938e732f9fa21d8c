//! An operator drains workers or the whole queue, and lets them go on.
//!
//! While the queue is drained no job starts on any worker. A drain of a worker is of its name. Both
//! last over restarts of the worker and of the coordinator. What a worker says of itself when it is
//! about to end is [`Worker::draining`](crate::Worker::draining), and is not touched here.

use std::collections::BTreeMap;

use super::drains::QUEUE;
use super::state::Engine;
use crate::event::{Effect, Effects, JournalKind, Refusal, Response};
use crate::ids::{JobId, Now};
use crate::job::{AfterStop, JobState, Stop};
use crate::worker::{Drain, Worker};

impl Engine {
    /// The worker `name` is given nothing more. What it runs goes on; with `at_once` it saves and
    /// stops, and its job waits for another worker.
    pub(super) fn drain(
        &mut self,
        now: Now,
        name: &str,
        reason: String,
        at_once: bool,
        effects: &mut Effects,
    ) -> Result<Response, Refusal> {
        let known = self.drains().get(name);
        if known.is_none() && !self.workers.contains(name) {
            return Err(Refusal::UnknownWorker(name.to_owned()));
        }
        let since = known.map_or(now.wall, |drain| drain.since);
        let drain = Drain {
            since,
            reason: reason.clone(),
        };
        if known != Some(&drain) {
            self.set_drain(name, Some(drain), effects);
            effects.push(Effect::record(
                None,
                Some(name.to_owned()),
                JournalKind::Drained,
                reason.clone(),
            ));
            // A job that several were kept free for may now be one for which there are too few.
            self.wake_all(now, effects);
        }
        if at_once && let Some(id) = self.may_be_given_back(name) {
            let stop = Stop {
                reason: format!("worker {name} is drained: {reason}"),
                then: AfterStop::Queued,
            };
            self.ask_to_stop(id, stop, effects);
        }
        Ok(Response::Done)
    }

    /// The job that the worker `name` runs, unless its attempt is asked to stop already: by
    /// whomever, that is a stop too.
    fn may_be_given_back(&self, name: &str) -> Option<JobId> {
        let token = self.workers.get(name)?.assigned?;
        let job = self.jobs.get(self.running.get(&token)?)?;
        matches!(job.state, JobState::Running { stopping: None, .. }).then_some(job.id)
    }

    /// The worker `name` is given work again.
    pub(super) fn undrain(
        &mut self,
        now: Now,
        name: &str,
        effects: &mut Effects,
    ) -> Result<Response, Refusal> {
        if !self.drains().contains_key(name) {
            // Undrained once already: this is the same request again.
            let is_known = self.workers.contains(name);
            let unknown = || Refusal::UnknownWorker(name.to_owned());
            return is_known.then_some(Response::Done).ok_or_else(unknown);
        }
        self.set_drain(name, None, effects);
        effects.push(Effect::record(
            None,
            Some(name.to_owned()),
            JournalKind::Undrained,
            String::new(),
        ));
        if self.workers.get(name).is_some_and(Worker::is_free) {
            self.wake(now, name, effects);
        }
        Ok(Response::Done)
    }

    /// The worker `name`, or the queue by its name, is drained as `drain` says, or not at all.
    pub(super) fn set_drain(&mut self, name: &str, drain: Option<Drain>, effects: &mut Effects) {
        self.drains.set(name, drain.clone());
        if let Some(mut worker) = self.workers.get_mut(name) {
            worker.drained = drain.clone();
        }
        effects.push(Effect::SaveDrain {
            worker: name.to_owned(),
            drain,
        });
    }

    /// The name of no worker, under which the drain of the queue is stored.
    pub const QUEUE: &str = QUEUE;

    /// No job starts. What runs goes on.
    pub(super) fn drain_queue(&mut self, now: Now, reason: String, effects: &mut Effects) {
        let known = self.queue_drain();
        let since = known.map_or(now.wall, |drain| drain.since);
        let drain = Drain {
            since,
            reason: reason.clone(),
        };
        if known != Some(&drain) {
            self.set_drain(Self::QUEUE, Some(drain), effects);
            effects.push(Effect::record(None, None, JournalKind::Drained, reason));
        }
    }

    /// Jobs start again. To undrain a queue that is not drained changes nothing.
    pub(super) fn undrain_queue(&mut self, now: Now, effects: &mut Effects) {
        if self.queue_drain().is_none() {
            return;
        }
        self.set_drain(Self::QUEUE, None, effects);
        let kind = JournalKind::Undrained;
        effects.push(Effect::record(None, None, kind, String::new()));
        self.wake_all(now, effects);
    }

    /// Workers that an operator has drained, by name, those included that are not there.
    pub fn drains(&self) -> &BTreeMap<String, Drain> {
        self.drains.workers()
    }

    /// Why and since when no job starts, where an operator has said so.
    pub fn queue_drain(&self) -> Option<&Drain> {
        self.drains.queue()
    }

    /// Takes `drains` for what is durable, that of the queue by [`Self::QUEUE`].
    pub fn adopt_drains(&mut self, drains: BTreeMap<String, Drain>) {
        self.drains.adopt(drains);
        self.mark_drained();
    }

    /// Every worker is drained or not as its operator has said.
    pub(super) fn mark_drained(&mut self) {
        let drains = self.drains.workers();
        self.workers
            .change_all(|worker| worker.drained = drains.get(&worker.name).cloned());
    }
}
