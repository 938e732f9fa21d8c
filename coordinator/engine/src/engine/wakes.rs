//! Wakes workers that wait for work when there is some.

use std::collections::HashMap;

use super::choice::Choice;
use super::state::Engine;
use crate::event::{Effect, Effects};
use crate::ids::{JobId, Now, SessionId};
use crate::placement::{by_preference, fits};
use crate::worker::{Needs, Worker};

/// Different needs that are remembered to have found nobody: to compare with ever more of them
/// would cost more than to look again.
const ALIKE: usize = 64;

impl Engine {
    /// Wakes the worker `name`, which waits. It no longer does, so that the next job wakes another
    /// one.
    pub(super) fn wake(&mut self, now: Now, name: &str, effects: &mut Effects) {
        let Some(mut worker) = self.workers.get_mut(name) else {
            return;
        };
        if std::mem::take(&mut worker.waiting) {
            worker.woken_at = Some(now.steady);
            self.woken.insert(name.to_owned());
        }
        effects.push(Effect::Wake(worker.session));
    }

    /// Wakes a worker that waits, fits the job and would be given work now, one that has the job's
    /// model before others; it takes the first job of the queue that it can.
    pub(super) fn wake_one_for(&mut self, now: Now, id: JobId, effects: &mut Effects) {
        let Some(job) = self.jobs.get(&id) else {
            return;
        };
        let needs = &job.spec.needs;
        let found = by_preference(needs, self.workers.free())
            .find(|w| fits(needs, w) && self.would_start(now, w))
            .map(|w| w.name.clone());
        if let Some(name) = found {
            self.wake(now, &name, effects);
        }
    }

    /// Whether `worker` waits and would be given work now.
    fn would_start(&self, now: Now, worker: &Worker) -> bool {
        worker.is_free() && matches!(self.choice_for(now, worker), Choice::Start(..))
    }

    /// A worker stopped waiting before it was answered; what it was woken for goes to another.
    pub(super) fn leave(&mut self, now: Now, session: SessionId, effects: &mut Effects) {
        if let Some(name) = self.sessions.get(&session) {
            self.woken.remove(name);
            if let Some(mut worker) = self.workers.get_mut(name) {
                (worker.waiting, worker.woken_at) = (false, None);
            }
        }
        self.wake_for_first(now, effects);
    }

    /// Wakes everyone who waits: what some were kept free for is not to be started any more.
    pub(super) fn wake_all(&mut self, now: Now, effects: &mut Effects) {
        if self.queue.is_empty() {
            return;
        }
        let free: Vec<String> = self.workers.free().map(|w| w.name.clone()).collect();
        for name in free {
            self.wake(now, &name, effects);
        }
    }

    /// Wakes a worker for the first job of the queue that may start and fits one that would be given
    /// work now. Jobs that fit nobody who waits are passed over, so that they hold up none behind
    /// them.
    pub(super) fn wake_for_first(&mut self, now: Now, effects: &mut Effects) {
        // Called at every tick: mostly nobody is free, or nothing waits.
        if self.queue.is_empty() {
            return;
        }
        let free: Vec<&Worker> = self.workers.free().collect();
        if free.is_empty() {
            return;
        }
        let fits_one = |needs: &Needs| free.iter().any(|w| fits(needs, w));
        // Jobs of the same needs find the same workers, and what a worker is given does not depend
        // on who asks for it.
        let mut in_vain: Vec<&Needs> = Vec::new();
        let mut starts: HashMap<&str, bool> = HashMap::new();
        let mut found = None;
        for needs in self.startable(now, fits_one).map(|job| &job.spec.needs) {
            if in_vain.contains(&needs) {
                continue;
            }
            let fitting = by_preference(needs, free.iter().copied());
            let fitting = fitting.filter(|w| fits(needs, w));
            let mut would_start = fitting.filter(|w| {
                *starts
                    .entry(&w.name)
                    .or_insert_with(|| self.would_start(now, w))
            });
            if let Some(worker) = would_start.next() {
                found = Some(worker.name.clone());
                break;
            }
            if in_vain.len() < ALIKE {
                in_vain.push(needs);
            }
        }
        if let Some(name) = found {
            self.wake(now, &name, effects);
        }
    }
}
