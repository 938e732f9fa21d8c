//! What must be so once a round is over.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use qlora_tests::{World, wait_until};

use crate::faults::succeeded_once;

/// Steps of each job, and between two of its checkpoints.
const STEPS: u64 = 80;
const EVERY: u64 = 5;

/// Waits for the job `id`, and holds it and its steps against what it is to have done.
pub fn complete(world: &World, id: u64) {
    let job = world.ended(id);
    succeeded_once(&job);
    let attempts = job["attempts"].as_array().expect("attempts").len();
    steps_are_whole(&losses(world, id), attempts);
}

/// Waits until workers have handed in what they had kept of attempts that are over.
pub fn handed_in(states: &[PathBuf]) {
    for state in states {
        wait_until("nothing left to hand in", || {
            files(&state.join("jobs")).is_empty().then_some(())
        });
    }
}

/// Each step's loss, in the order in which it was recorded.
fn losses(world: &World, id: u64) -> Vec<(u64, f64)> {
    let points = world.ctl(&["metrics", &id.to_string(), "--json"]).json();
    let loss = |point: &serde_json::Value| Some((point["step"].as_u64()?, point["loss"].as_f64()?));
    points.iter().filter_map(loss).collect()
}

/// No step is left out. One is repeated only where an attempt goes on from a checkpoint, and its
/// loss is the same then; no more attempts than there were go on from one.
fn steps_are_whole(losses: &[(u64, f64)], attempts: usize) {
    let (mut last, mut goes_back, mut known) = (0, 0, BTreeMap::new());
    for &(step, loss) in losses {
        if step <= last {
            goes_back += 1;
            assert_eq!(
                step % EVERY,
                1,
                "after {last} no checkpoint is before {step}"
            );
        } else {
            assert_eq!(step, last + 1, "steps between were lost: {losses:?}");
        }
        let before = *known.entry(step).or_insert(loss);
        assert!(before == loss, "step {step} has lost {before} and {loss}");
        last = step;
    }
    assert_eq!(last, STEPS, "{losses:?}");
    assert!(
        goes_back < attempts,
        "{goes_back} of {attempts}: {losses:?}"
    );
}

/// What programs leave behind that were killed, once all has ended: nothing on workers, and no more
/// parts of uploads than were cut off. A kill cuts off those of both workers and one of a person.
pub fn nothing_is_left(world: &World, states: &[PathBuf], (temporary, kills): (&Path, usize)) {
    for state in states {
        let left = files(&state.join("jobs"));
        assert!(left.is_empty(), "of attempts: {left:?}");
        let begun = files(state).into_iter().filter(|path| is_begun(path));
        let begun: Vec<_> = begun.collect();
        // One file of each kind may have been begun when the worker was killed; the next write of
        // the same file removes it.
        assert!(begun.len() <= 2, "{begun:?}");
    }
    let left = files(temporary);
    assert!(
        left.is_empty(),
        "in the folder for temporary files: {left:?}"
    );
    let parts = files(&world.path("state/artifacts/partial"));
    assert!(parts.len() <= 3 * kills, "{parts:?}");
    let begun = files(&world.path("state/artifacts/sha256"));
    let begun: Vec<_> = begun.iter().filter(|path| is_begun(path)).collect();
    assert!(begun.is_empty(), "{begun:?}");
}

fn is_begun(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "partial")
}

/// All files below `folder`, and none where it is not there.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[test]
fn steps_that_were_lost_or_doubled_are_seen() {
    let run = |steps: &[u64]| -> Vec<(u64, f64)> {
        let rest = steps.last().map_or(1, |last| last + 1)..=STEPS;
        let all = steps.iter().copied().chain(rest);
        all.map(|step| (step, step as f64)).collect()
    };
    let is_whole = |losses: &[(u64, f64)], attempts| {
        std::panic::catch_unwind(|| steps_are_whole(losses, attempts)).is_ok()
    };
    let resumed = [1, 2, 3, 4, 5, 6, 7, 6, 7];
    assert!(is_whole(&run(&[]), 1) && is_whole(&run(&resumed), 2));
    // More repeats than attempts, a step that is left out, one that begins at no checkpoint.
    assert!(!is_whole(&run(&resumed), 1));
    assert!(!is_whole(&run(&[1, 2, 4]), 2));
    assert!(!is_whole(&run(&[1, 2, 3, 4, 3]), 2));
    let mut other = run(&resumed);
    other[7].1 = 0.0;
    assert!(!is_whole(&other, 2));
    let mut short = run(&[]);
    short.pop();
    assert!(!is_whole(&short, 1));
}
