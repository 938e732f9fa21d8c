//! Runs a check on random inputs until its time is over.

use std::cell::Cell;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngSeed, TestError, TestRunner};

/// For how many seconds a target runs.
const SECONDS: &str = "QLORA_FUZZ_SECONDS";
/// For how long it runs among the other tests.
const SHORT: Duration = Duration::from_millis(500);
/// Inputs of a run among the other tests, and of one round of a long one.
const INPUTS: u32 = 1000;
/// What the inputs of a run among the other tests are drawn from: the same each time, so that a
/// change is not refused for what was there before it.
const SHORT_SEED: u64 = 1;
/// For how long an input that fails is made smaller.
const SHRINK_MS: u32 = 60_000;

/// Gives `check` random values of `strategy`, as many as a short run has or for as long as
/// `QLORA_FUZZ_SECONDS` says.
///
/// # Panics
/// `check` does, for the smallest value that was found, which the message shows.
pub fn cases<S: Strategy>(name: &str, strategy: &S, check: impl Fn(&S::Value))
where
    S::Value: Debug,
{
    if let Err((reason, smallest)) = run(strategy, &check) {
        panic!("{name} fails: {reason}\nby {smallest:?}");
    }
}

/// Why `check` fails, and the smallest value by which it does.
pub(crate) fn run<S: Strategy>(
    strategy: &S,
    check: &impl Fn(&S::Value),
) -> Result<(), (String, S::Value)> {
    let given = asked();
    let until = Instant::now() + given.unwrap_or(SHORT);
    // A check that panics leaves it set: then the value is made smaller, whatever the time.
    let is_checking = Cell::new(false);
    let one = |value: S::Value| {
        if is_checking.get() || Instant::now() < until {
            is_checking.set(true);
            check(&value);
            is_checking.set(false);
        }
        Ok(())
    };
    loop {
        let config = Config {
            cases: INPUTS,
            failure_persistence: None,
            max_shrink_time: SHRINK_MS,
            rng_seed: match given {
                None => RngSeed::Fixed(SHORT_SEED),
                Some(_) => RngSeed::Random,
            },
            ..Config::default()
        };
        match TestRunner::new(config).run(strategy, one) {
            Ok(()) => {}
            Err(TestError::Fail(reason, smallest)) => return Err((reason.to_string(), smallest)),
            Err(TestError::Abort(reason)) => panic!("no inputs: {reason}"),
        }
        if given.is_none() || Instant::now() >= until {
            return Ok(());
        }
    }
}

/// The time that a person asks for.
fn asked() -> Option<Duration> {
    let text = std::env::var(SECONDS).ok()?;
    let seconds = text.parse();
    Some(Duration::from_secs(seconds.unwrap_or_else(|_| {
        panic!("{SECONDS} is {text:?}; give a whole number of seconds")
    })))
}
