//! What happens by the passing of time alone: leases end, time limits expire, and held jobs may
//! start.

use super::state::Engine;
use crate::event::{Effect, Effects, JournalKind};
use crate::ids::{Millis, Now};

impl Engine {
    /// Whether anybody's lease is to be watched.
    pub fn watches_leases(&self) -> bool {
        self.workers.watches_leases()
    }

    /// The next time after `now`, on the steady clock, at which [`Event::Tick`](crate::Event::Tick)
    /// may change something.
    pub fn next_deadline(&self, now: Millis) -> Option<Millis> {
        // Jobs that may start already wait for a worker and not for time.
        let held = self.queue.next_start(now.plus(1));
        let elsewhere = self.limits.elsewhere;
        // What was `ms` milliseconds ago is over now.
        let after = |ms| Millis(now.0.checked_sub(ms).map_or(0, |past| past + 1));
        let left = self.queue.next_start(after(elsewhere));
        let waits = held.into_iter().chain(left.map(|at| at.plus(elsewhere)));
        // What was left for a worker that was woken may be given to others.
        let head_start = self.limits.head_start;
        let woken = self.workers.first_woken(after(head_start));
        let lease = self.workers.first_lease();
        waits
            .chain(lease)
            .chain(woken.map(|at| at.plus(head_start)))
            .chain(self.time_limits.first())
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
        let lost = self.workers.overdue(now.steady);
        let anyone = !lost.is_empty();
        for name in lost {
            if let Some(mut worker) = self.workers.get_mut(&name) {
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
        self.workers
            .change_all(|worker| worker.lease_until = worker.lease_until.plus(ms));
    }
}
