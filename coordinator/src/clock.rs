//! Two clocks: one that never jumps, for leases and waits, and the one that people read.
//!
//! The first one stands still while the machine sleeps (`CLOCK_MONOTONIC` on Linux,
//! `CLOCK_UPTIME_RAW` on macOS): no worker can renew its lease while the coordinator sleeps, and
//! none loses it by that.

use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use qlora_engine::{Millis, Now};

/// Where the steady clock began: at the time of the wall clock then.
static BEGAN: LazyLock<(Instant, u64)> = LazyLock::new(|| (Instant::now(), wall()));

fn wall() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis() as u64
}

/// The time now.
pub fn now() -> Now {
    let (began, at) = *BEGAN;
    Now {
        steady: Millis(at + began.elapsed().as_millis() as u64),
        wall: Millis(wall()),
    }
}
