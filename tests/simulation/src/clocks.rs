//! The clocks of a simulation: simulated time for all of them, and a wall clock that the schedule
//! steps.
//!
//! A simulation runs on one thread. Several may run at a time, each on a thread of its own, so that
//! what is kept here is kept for each thread.

use std::cell::Cell;
use std::time::Duration;

use qlora_proto::clock::{Clocks, replace};

/// What the wall clock shows when a simulation begins, in milliseconds since 1970.
const BEGAN: u64 = 1_800_000_000_000;

thread_local! {
    /// Simulated time between two steps, when no machine runs.
    static BETWEEN: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    /// By how much the wall clock was stepped, in milliseconds.
    static STEPPED: Cell<i64> = const { Cell::new(0) };
    /// What the steady clock of the coordinator is ahead of simulated time: it begins at the time
    /// of the wall clock whenever the program starts.
    static STEADY: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    /// Since when the coordinator stands still, and its steady clock with it.
    static STILL: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// Makes the whole process read simulated time.
pub fn install() {
    replace(Clocks {
        all: now,
        steady: || STEADY.get() + STILL.get().unwrap_or_else(now),
        wall,
    });
}

/// A simulation begins on this thread.
pub fn begin() {
    BETWEEN.set(Duration::ZERO);
    STEPPED.set(0);
    STEADY.set(Duration::ZERO);
    STILL.set(None);
}

/// Simulated time; that of the last step where no machine runs.
pub fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_else(|| BETWEEN.get())
}

/// No machine runs before the next step, and `at` is the time.
pub fn rest(at: Duration) {
    BETWEEN.set(at);
}

/// Sets the wall clock forward or back.
pub fn step_wall(ms: i64) {
    STEPPED.set(STEPPED.get() + ms);
}

/// The coordinator's program starts now.
pub fn start_program() {
    STILL.set(None);
    STEADY.set(wall().saturating_sub(now()));
}

/// The coordinator stands still from now on: it may look at its steady clock, and sees no time
/// pass.
pub fn stand_still() {
    STILL.set(STILL.get().or_else(|| Some(now())));
}

/// The coordinator goes on. Its steady clock has stood still as well where its machine `slept`.
pub fn go_on(slept: bool) {
    if let Some(since) = STILL.take()
        && slept
    {
        STEADY.set(STEADY.get().saturating_sub(now() - since));
    }
}

fn wall() -> Duration {
    let shown = BEGAN.saturating_add_signed(STEPPED.get());
    Duration::from_millis(shown) + now()
}
