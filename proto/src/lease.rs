//! How long this worker may hold its attempt.
//!
//! The lease counts from when the last accepted request was sent. The coordinator counts from a
//! later moment, however long its answer took. Another worker may begin once the lease is over, so
//! this one is silent before that. The time that the machine sleeps counts: the coordinator is
//! awake meanwhile.

use std::time::Duration;

use crate::clock::Moment;

/// Part of the lease after which the attempt is asked to save and stop.
const SAFE_PART: f64 = 0.8;
/// Part of the lease after which it is ended as it is.
const LAST_PART: f64 = 0.95;
/// Part of the lease for which the coordinator may hold an answer: a second exchange has to fit in
/// as well.
const HELD_PART: u32 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    sent: Moment,
    length: Duration,
}

impl Lease {
    /// Of a request that was sent at `sent` and taken.
    pub fn new(sent: Moment, length: Duration) -> Self {
        Self { sent, length }
    }

    /// Until when it may be renewed before the attempt has to stop.
    pub fn safe_until(&self) -> Moment {
        self.sent + self.length.mul_f64(SAFE_PART)
    }

    /// When the training process must have ended.
    pub fn ends(&self) -> Moment {
        self.sent + self.length.mul_f64(LAST_PART)
    }

    /// How long the coordinator may hold an answer, `longest` at the most.
    pub fn hold(&self, longest: Duration) -> Duration {
        longest.min(self.length / HELD_PART)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_has_ended_before_the_lease_has_and_two_held_answers_fit_before_it_stops() {
        let sent = Moment::now();
        for seconds in [1, 3, 30, 3600] {
            let length = Duration::from_secs(seconds);
            let lease = Lease::new(sent, length);
            assert!(lease.safe_until() < lease.ends() && lease.ends() < sent + length);
            assert!(sent + 2 * lease.hold(Duration::from_secs(20)) < lease.safe_until());
        }
    }
}
