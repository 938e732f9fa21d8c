//! Waits for moments of a lease. The time that the machine sleeps counts: the coordinator is awake
//! meanwhile.

use qlora_proto::clock::Moment;
pub use qlora_proto::lease::Lease;

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
    use std::time::Duration;

    use qlora_proto::clock::BEAT;

    use super::*;

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
