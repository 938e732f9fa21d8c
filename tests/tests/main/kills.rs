//! `kill -9`, again and again: the real programs, at times that a seed chooses.
//!
//! A seed gives the schedule: which program is killed, after how long, and for how long it is away.
//! What the programs do meanwhile is theirs, so the same seed may pass and fail; run one that has
//! failed several times. `just kills 1000` runs a thousand of them.
#![cfg(target_os = "linux")]

mod ended;
mod round;
mod schedule;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use self::round::{Undisturbed, round};

/// Rounds where the environment says nothing.
const ROUNDS: u64 = 10;
/// Rounds at the same time: much of one is waiting.
const AT_ONCE: usize = 2;

/// The number in the variable `name`.
fn number(name: &str, usual: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|e| panic!("{name} is `{text}`: {e}; give a number")),
        Err(_) => usual,
    }
}

#[test]
fn what_is_killed_at_any_time_loses_and_doubles_nothing() {
    let first = number("QLORA_TEST_KILLS_FROM", 1);
    let end = first + number("QLORA_TEST_KILLS", ROUNDS);
    let undisturbed = Undisturbed::train();
    let (next, failed) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, SeqCst);
                    if seed >= end {
                        return;
                    }
                    // The others are still to be seen.
                    let ended = catch_unwind(AssertUnwindSafe(|| round(seed, &undisturbed)));
                    if ended.is_err() {
                        eprintln!("seed {seed} failed; again: just kills 1 {seed}");
                        failed.lock().expect("the seeds").push(seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("the seeds");
    assert!(
        failed.is_empty(),
        "seeds {failed:?} failed; again: just kills 1 SEED"
    );
}
