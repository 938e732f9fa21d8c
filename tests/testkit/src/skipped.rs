//! Tests, or parts of one, that a machine cannot run: each says so on a line that `tests/run` counts.

use std::io::Write;

/// Says that the test of this thread leaves something out, and why.
///
/// The harness keeps what `eprintln!` writes in a test that passes; this it does not.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // In one piece, so that other tests write nothing between.
    let line = format!("skipped: {test}: {reason}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}
