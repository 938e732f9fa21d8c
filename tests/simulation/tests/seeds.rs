//! Simulations of many seeds, and of some of them several times.
//!
//! A seed takes the same course each time in one build of the programs, whatever else the process
//! does. It need not where the machine stands still for a second in the middle of a simulation: one
//! clock is not replaced, that by which the `h2` crate forgets streams a second after it has reset
//! them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Instant;

use qlora_simulation::{Report, Tally, simulate};

/// Seeds that every run of the tests simulates.
const SEEDS: u64 = 2_000;
/// How many of them it simulates four times.
const AGAIN: u64 = 16;
/// How many there are, and which is the first, where `just simulate` says so.
const MANY: &str = "QLORA_TEST_SIMULATIONS";
const FIRST: &str = "QLORA_TEST_SIMULATIONS_FROM";
/// Go on after a seed that breaks a rule, and tell of each on one line.
const ALL: &str = "QLORA_TEST_SIMULATIONS_ALL";

fn setting(name: &str, usual: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(usual, |text| text.parse().expect("a number"))
}

/// What was met, and the first of the seeds that breaks a rule, in the order in which they come to
/// their end.
fn run(seeds: std::ops::Range<u64>) -> (Tally, Option<Report>) {
    let (next, broken) = (AtomicU64::new(seeds.start), Mutex::new(None));
    let tally = Mutex::new(Tally::default());
    let goes_on = setting(ALL, 0) > 0;
    let is_alone = seeds.end - seeds.start == 1;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while goes_on || broken.lock().expect("a lock").is_none() {
                    let seed = next.fetch_add(1, SeqCst);
                    if seed >= seeds.end {
                        return;
                    }
                    let report = simulate(seed);
                    tally.lock().expect("a lock").add(&report.tally);
                    if let Some(rule) = &report.broken {
                        println!("seed {seed}: {rule}");
                        broken.lock().expect("a lock").get_or_insert(report);
                    } else if is_alone {
                        println!("{report}");
                    }
                }
            });
        }
    });
    let tally = tally.into_inner().expect("a lock");
    (tally, broken.into_inner().expect("a lock"))
}

#[test]
fn no_seed_breaks_a_rule() {
    let (many, first) = (setting(MANY, SEEDS), setting(FIRST, 1));
    let began = Instant::now();
    let (tally, broken) = run(first..first + many);
    if let Some(report) = broken {
        let seed = report.schedule.seed;
        panic!("{report}this one alone: just simulate 1 {seed}");
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{many} simulations in {seconds:.1} s\n{tally}");
    // A fault that never comes proves nothing, and neither does one after which nothing happens.
    let missing = tally.missing();
    assert!(many < SEEDS || missing.is_empty(), "never met: {missing:?}");
}

/// Spawns tasks that do nothing. The whole process counts its tasks, and a runtime that ends drops its
/// own in an order that depends on their numbers.
fn spawn(tasks: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(async {
        for _ in 0..tasks {
            tokio::spawn(async {}).await.expect("its end");
        }
    });
}

/// Where two simulations of one seed part.
fn parting(once: &Report, again: &Report) -> Option<String> {
    if once == again {
        return None;
    }
    let mut lines = once.log.iter().zip(&again.log);
    let lines = lines.find(|(a, b)| a != b);
    Some(match lines {
        Some((a, b)) => format!("{a}\n{b}"),
        None => format!("{} lines and {}", once.log.len(), again.log.len()),
    })
}

#[test]
fn a_seed_gives_the_same_simulation_again() {
    let (many, first) = (setting(MANY, AGAIN), setting(FIRST, 1));
    let mut partings = Vec::new();
    for seed in first..first + many {
        let once = simulate(seed);
        for tasks in 1..4 {
            spawn(tasks);
            if let Some(parting) = parting(&once, &simulate(seed)) {
                partings.push(format!("seed {seed}, {tasks} tasks later:\n{parting}"));
                break;
            }
        }
    }
    assert!(partings.is_empty(), "{}", partings.join("\n"));
}
