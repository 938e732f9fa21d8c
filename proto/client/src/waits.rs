//! How long a worker waits for its coordinator, and for what. The agent waits so, and the worker of
//! a simulation with it.

use std::time::Duration;

use qlora_proto::clock::Moment;
use qlora_proto::lease::Lease;
use tokio::time::{Instant, timeout};
use tonic::{Response, Status};

use crate::retry::{Backoff, passes_after};

/// How long the coordinator may hold an answer.
pub const HOLD: Duration = Duration::from_secs(20);
/// Time beyond it after which a call is given up.
pub const LATE: Duration = Duration::from_secs(10);
/// Until a coordinator is asked again that has said to stop.
pub const STOP_AGAIN: Duration = Duration::from_millis(500);
/// Reports that gather within this time travel together; a coordinator of many attempts asks for more.
pub const GATHER: Duration = Duration::from_millis(200);
/// Wait between two tries while a lease runs out.
const SHORTEST: Duration = Duration::from_millis(100);

/// The answer to a call, which is given up where it hangs for longer than `time`.
///
/// # Errors
/// What the call was refused for, or that there was no answer in time.
pub async fn within<T>(
    time: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Status> {
    match timeout(time, call).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer")),
    }
}

/// The wait after a call that failed by `fault`. While an attempt has a `lease` to lose, several
/// tries fit into what is left of it.
pub fn after(fault: &Status, backoff: &mut Backoff, lease: Option<Lease>) -> Duration {
    let left = lease.map(|lease| lease.safe_until().since(Moment::now()));
    let left = left.filter(|left| !left.is_zero());
    let longest = left.map_or(Duration::MAX, |left| (left / 8).max(SHORTEST));
    let asked = passes_after(fault).unwrap_or_default();
    backoff.take_for(asked).min(longest)
}

/// Waits for `moment`, by the clock `now`; forever where there is none. The time that the machine
/// sleeps counts: the coordinator is awake meanwhile.
pub async fn come(moment: Option<Moment>, now: impl Fn() -> Moment) {
    let Some(moment) = moment else {
        return std::future::pending().await;
    };
    while let Some(nap) = moment.nap(now()) {
        tokio::time::sleep(nap).await;
    }
}

/// Waits for `deadline`, while the machine is awake; forever where there is none.
pub async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Until when a worker waits for its own identity.
///
/// One that was killed before it wrote its session down, or that is of an earlier version, is taken
/// once the lease of its last run has ended. One on a copied state folder is refused for longer.
#[derive(Debug, Default)]
pub struct Taken(Option<Instant>);

impl Taken {
    /// Whether to try again at `now`, after the refusal `status`; none where it does not pass by
    /// itself.
    pub fn wait(&mut self, status: &Status, now: Instant) -> Option<bool> {
        let passes = passes_after(status)?;
        let until = *self.0.get_or_insert_with(|| {
            // A coordinator that stands still meanwhile extends the lease.
            let longest = 2 * passes;
            tracing::warn!(
                "{}; trying again until that lease has ended, {} s at the most",
                status.message(),
                longest.as_secs()
            );
            now + longest
        });
        Some(now < until)
    }

    /// The worker was taken.
    pub fn end(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use qlora_proto::PASSES_AFTER;
    use qlora_proto::clock::BEAT;

    use super::*;
    use crate::retry::Policy;

    fn refusal(after: &str) -> Status {
        let mut status = Status::already_exists("it is there");
        let value = after.parse().expect("a value");
        status.metadata_mut().insert(PASSES_AFTER, value);
        status
    }

    #[test]
    fn a_refusal_is_waited_for_two_leases_from_the_first_and_anew_after_a_success() {
        let (mut taken, now) = (Taken::default(), Instant::now());
        let at = |ms| now + Duration::from_millis(ms);
        let status = refusal("4000");
        assert_eq!(taken.wait(&status, now), Some(true));
        assert_eq!(taken.wait(&status, at(7_900)), Some(true));
        assert_eq!(taken.wait(&status, at(8_000)), Some(false));
        taken.end();
        assert_eq!(taken.wait(&status, at(9_000)), Some(true));
        assert_eq!(taken.wait(&status, at(17_000)), Some(false));
    }

    #[test]
    fn a_refusal_that_does_not_say_when_it_passes_is_not_waited_for() {
        let mut taken = Taken::default();
        for status in [Status::already_exists("a name"), refusal("soon")] {
            assert_eq!(taken.wait(&status, Instant::now()), None);
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

    #[test]
    fn several_tries_fit_into_what_is_left_of_a_lease_and_none_hurries_for_a_lease_that_is_over() {
        let (now, hour) = (Moment::now(), Duration::from_secs(3600));
        let mut busy = Status::resource_exhausted("too many");
        let value = "7000".parse().expect("a value");
        busy.metadata_mut().insert(PASSES_AFTER, value);
        let mut backoff = Backoff::new(Policy::CALL);
        assert_eq!(after(&busy, &mut backoff, None).as_millis(), 7_000);
        let long = Some(Lease::new(now, hour));
        assert_eq!(after(&busy, &mut backoff, long).as_millis(), 7_000);
        let short = Some(Lease::new(now, Duration::from_secs(10)));
        assert!(after(&busy, &mut backoff, short) <= Duration::from_secs(1));
        let least = Some(Lease::new(now, Duration::from_millis(500)));
        assert_eq!(after(&busy, &mut backoff, least), SHORTEST);
        let over = Some(Lease::new(now, Duration::ZERO));
        assert_eq!(after(&busy, &mut backoff, over).as_millis(), 7_000);
    }
}
