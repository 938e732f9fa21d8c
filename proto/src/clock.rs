//! The clock of leases: it never jumps, and it counts while the machine sleeps as well.
//!
//! | system | this clock | `std::time::Instant` and timers |
//! |---|---|---|
//! | Linux | `CLOCK_BOOTTIME` counts a suspend (clock_gettime(2)) | `CLOCK_MONOTONIC` stands still |
//! | macOS | `CLOCK_MONOTONIC` counts sleep (clock_gettime(3)) | `CLOCK_UPTIME_RAW` stands still |
//!
//! A timer that is set before a suspend therefore ends late by as long as the suspend took. Code
//! that waits for a [`Moment`] reads this clock again at least every [`BEAT`].
//!
//! A simulation replaces all clocks of its process by [`replace`]; whoever else reads them pays one
//! load from memory for that.

use std::ops::Add;
use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::Monotonic;

/// The longest wait before this clock is asked again.
pub const BEAT: Duration = Duration::from_millis(250);

/// The clocks of a simulation, each as the time since a moment of its own.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    /// Never jumps, and counts while the machine sleeps.
    pub all: fn() -> Duration,
    /// Never jumps, and stands still while the machine sleeps.
    pub steady: fn() -> Duration,
    /// Since 1970, as people set it.
    pub wall: fn() -> Duration,
}

/// Those that are read in the place of the system's.
static REPLACED: OnceLock<Clocks> = OnceLock::new();

/// When [`steady`] began, and the wall clock then.
static BEGAN: LazyLock<(Instant, Duration)> = LazyLock::new(|| (Instant::now(), system_wall()));

/// Reads `clocks` from now on, in the whole process. The first that are given stay: a simulation
/// gives them before anything reads the time.
pub fn replace(clocks: Clocks) {
    let _ = REPLACED.set(clocks);
}

/// The time on a clock that never jumps and stands still while the machine sleeps. It began at the
/// time of the wall clock then.
pub fn steady() -> Duration {
    match REPLACED.get() {
        Some(clocks) => (clocks.steady)(),
        None => BEGAN.1 + BEGAN.0.elapsed(),
    }
}

/// The time since 1970 by the clock that people read, which jumps when they set it.
pub fn wall() -> Duration {
    REPLACED
        .get()
        .map_or_else(system_wall, |clocks| (clocks.wall)())
}

fn system_wall() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// A time on this clock of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    pub fn now() -> Self {
        if let Some(clocks) = REPLACED.get() {
            return Self((clocks.all)());
        }
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
