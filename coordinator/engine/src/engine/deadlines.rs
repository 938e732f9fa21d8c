//! What happens by the passing of time alone: leases end, time limits expire, and held jobs may
//! start.

use super::state::Engine;
use crate::event::{Effect, Effects, JournalKind};
use crate::ids::{Millis, Now};
use crate::worker::Worker;

impl Engine {
    /// Whether anybody's lease is to be watched.
    pub fn watches_leases(&self) -> bool {
        self.workers
            .values()
            .any(|w| w.connected || w.assigned.is_some())
    }

    /// The next time after `now`, on the steady clock, at which [`Event::Tick`](crate::Event::Tick)
    /// may change something.
    pub fn next_deadline(&self, now: Millis) -> Option<Millis> {
        let leases = self
            .workers
            .values()
            .filter(|w| w.connected || w.assigned.is_some())
            .map(|w| w.lease_until);
        // Jobs that may start already wait for a worker and not for time.
        let held = self.queue.next_start(now.plus(1));
        let elsewhere = self.limits.elsewhere;
        let since = now.0.checked_sub(elsewhere).map_or(0, |past| past + 1);
        let left = self.queue.next_start(Millis(since));
        let waits = held.into_iter().chain(left.map(|at| at.plus(elsewhere)));
        // What was left for a worker that was woken may be given to others.
        let head_starts = self
            .workers
            .values()
            .filter(|w| !w.platform.models.is_empty())
            .filter_map(|w| Some(w.woken_at?.plus(self.limits.head_start)))
            .filter(|&t| t > now);
        leases
            .chain(waits)
            .chain(head_starts)
            .chain(self.time_limits.values().copied())
            .min()
    }

    /// Does what is due at `now`.
    pub(super) fn tick(&mut self, now: Now, effects: &mut Effects) {
        self.end_leases(now, effects);
        self.stop_overdue(now, effects);
        self.wake_for_first(now, effects);
    }

    /// Workers that were silent for a whole lease are lost, and so are their attempts.
    fn end_leases(&mut self, now: Now, effects: &mut Effects) {
        let ended =
            |w: &&Worker| w.lease_until <= now.steady && (w.connected || w.assigned.is_some());
        let lost: Vec<String> = self
            .workers
            .values()
            .filter(ended)
            .map(|w| w.name.clone())
            .collect();
        let anyone = !lost.is_empty();
        for name in lost {
            if let Some(worker) = self.workers.get_mut(&name) {
                worker.connected = false;
                (worker.waiting, worker.woken_at) = (false, None);
                self.sessions.remove(&worker.session);
            }
            effects.push(Effect::record(
                None,
                Some(name.clone()),
                JournalKind::Lost,
                "its lease ended".into(),
            ));
            self.lose(
                now,
                &name,
                "its worker was not heard of for a whole lease",
                effects,
            );
        }
        if anyone {
            // A job that several were kept free for may now be one for which there are too few.
            self.wake_all(now, effects);
        }
    }

    /// Nobody could renew a lease for `ms` milliseconds.
    pub(super) fn extend_leases(&mut self, ms: u64) {
        for worker in self.workers.values_mut() {
            worker.lease_until = worker.lease_until.plus(ms);
        }
    }
}
