//! Two clocks: one that never jumps, for leases and waits, and the one that people read.
//!
//! The first one stands still while the machine sleeps (`CLOCK_MONOTONIC` on Linux,
//! `CLOCK_UPTIME_RAW` on macOS): no worker can renew its lease while the coordinator sleeps, and
//! none loses it by that.

use qlora_engine::{Millis, Now};
use qlora_proto::clock;

/// The time now.
pub fn now() -> Now {
    Now {
        steady: Millis(clock::steady().as_millis() as u64),
        wall: Millis(clock::wall().as_millis() as u64),
    }
}
