//! How long this worker may hold its attempt.
//!
//! The lease counts from when the last accepted request was sent. The coordinator counts from a
//! later moment, however long its answer took. Another worker may begin once the lease is over, so
//! this one is silent before that. The time that the machine sleeps counts: the coordinator is
//! awake meanwhile.

use std::time::Duration;

use qlora_proto::clock::Moment;

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

/// Waits for `moment`, by the clock `now`; forever where there is none.
pub async fn come(moment: Option<Moment>, now: impl Fn() -> Moment) {
    let Some(moment) = moment else {
        return std::future::pending().await;
    };
    while let Some(nap) = moment.nap(now()) {
        tokio::time::sleep(nap).await;
    }
}

/// Waits for `deadline`, while the machine is awake; forever where there is none.
pub async fn at(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use qlora_proto::clock::BEAT;

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

    #[tokio::test]
    async fn a_lease_that_ended_while_the_machine_slept_is_over_at_the_next_beat() {
        let began = Moment::now();
        let lease = Lease::new(began, Duration::from_secs(3600));
        // By the timers of this machine no time passes to speak of; by the clock an hour does, once
        // the wait has begun.
        let looks = Cell::new(0);
        let clock = || {
            looks.set(looks.get() + 1);
            if looks.get() == 1 {
                began
            } else {
                began + Duration::from_secs(3600)
            }
        };
        let waited = std::time::Instant::now();
        come(Some(lease.ends()), clock).await;
        assert_eq!(looks.get(), 2);
        assert!(waited.elapsed() < 20 * BEAT, "{:?}", waited.elapsed());
    }

    #[tokio::test]
    async fn a_moment_that_has_come_is_not_waited_for_and_none_is_waited_for_without_end() {
        come(Some(Moment::now()), Moment::now).await;
        let none = tokio::time::timeout(Duration::from_millis(10), come(None, Moment::now)).await;
        none.expect_err("nothing comes");
    }
}
