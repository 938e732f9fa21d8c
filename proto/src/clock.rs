//! The clock of leases: it never jumps, and it counts while the machine sleeps as well.
//!
//! | system | this clock | `std::time::Instant` and timers |
//! |---|---|---|
//! | Linux | `CLOCK_BOOTTIME` counts a suspend (clock_gettime(2)) | `CLOCK_MONOTONIC` stands still |
//! | macOS | `CLOCK_MONOTONIC` counts sleep (clock_gettime(3)) | `CLOCK_UPTIME_RAW` stands still |
//!
//! A timer that is set before a suspend therefore ends late by as long as the suspend took. Code
//! that waits for a [`Moment`] reads this clock again at least every [`BEAT`].

use std::ops::Add;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::Monotonic;

/// The longest wait before this clock is asked again.
pub const BEAT: Duration = Duration::from_millis(250);

/// A time on this clock of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    pub fn now() -> Self {
        let time = clock_gettime(CLOCK);
        Self(Duration::new(
            time.tv_sec.unsigned_abs(),
            time.tv_nsec.unsigned_abs() as u32,
        ))
    }

    /// The time from `earlier` to this one; nothing where that is the later one.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// How long to wait before the clock is asked again, `now` being the time; none once the moment
    /// has come.
    pub fn nap(self, now: Self) -> Option<Duration> {
        let left = self.since(now);
        (!left.is_zero()).then(|| left.min(BEAT))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_on_with_the_time_of_timers() {
        let (before, timer) = (Moment::now(), std::time::Instant::now());
        std::thread::sleep(Duration::from_millis(20));
        let (passed, by_timer) = (Moment::now().since(before), timer.elapsed());
        assert!(
            passed >= Duration::from_millis(20) && passed < by_timer + Duration::from_secs(5),
            "{passed:?}"
        );
    }

    #[test]
    fn a_wait_is_taken_in_short_naps_and_ends_when_its_moment_has_come() {
        let now = Moment(Duration::from_secs(5));
        assert_eq!((now + Duration::from_secs(3600)).nap(now), Some(BEAT));
        assert_eq!((now + BEAT / 2).nap(now), Some(BEAT / 2));
        // The machine slept meanwhile.
        assert_eq!((now + BEAT).nap(now + Duration::from_secs(3600)), None);
        assert_eq!(
            (now.nap(now), now.since(now + BEAT)),
            (None, Duration::ZERO)
        );
    }
}
