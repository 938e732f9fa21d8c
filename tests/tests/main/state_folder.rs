//! Copies of a state folder that are served, and jobs that move to PostgreSQL, with real programs.

use std::fs;
use std::path::Path;
use std::process::Output;

use qlora_tests::{Postgres, World, launch};

/// Long enough to be interrupted.
const LONG: &str = "training: {max_steps: 400, checkpoint_every: 10, eval_rows: 2}";
const SHORT: &str = "training: {max_steps: 2, checkpoint_every: 0, eval_rows: 2}";

/// What a command of the coordinator gave.
fn coordinator(state: &Path, args: &[&str]) -> Output {
    launch("qlora-coordinator")
        .args(args)
        .arg("--state-dir")
        .arg(state)
        .output()
        .expect("a program that starts")
}

fn stdout(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refused(output: &Output, code: i32, words: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(words), "{said}");
}

#[test]
fn a_backup_of_a_coordinator_that_serves_is_a_coordinator_with_all_that_was_there() {
    let mut world = World::new(&[]);
    let _worker = world.worker("a", &[]);
    let id = world.submit(&world.config(SHORT), &[]);
    world.ended(id);
    let backup = world.path("backup");
    let folder = backup.to_string_lossy().into_owned();
    let state = world.path("state");
    let told = stdout(&coordinator(&state, &["backup", &folder]));
    assert!(told.contains("0 artifacts (0 B) were there"), "{told}");
    let later = world.submit(&world.config(SHORT), &[]);
    world.ended(later);
    // A second one brings what is new.
    let again = stdout(&coordinator(&state, &["backup", &folder]));
    assert!(!again.contains("0 artifacts (0 B) were there"), "{again}");
    world.coordinator.kill();
    let lost = world.path("lost");
    fs::rename(&state, &lost).expect("a state that is gone");
    fs::rename(&backup, &state).expect("a restored one");
    world.restart_coordinator();
    for id in [id, later] {
        assert_eq!(world.job(id)["phase"], "succeeded");
        let out = world.path(&format!("adapter-{id}"));
        let got = world.ctl(&[
            "artifacts",
            "get",
            &id.to_string(),
            "--output",
            &out.to_string_lossy(),
        ]);
        assert_eq!(got.code, 0, "{}", got.stderr);
    }
    // It goes on.
    let next = world.submit(&world.config(SHORT), &[]);
    world.ended(next);
    assert_eq!(next, later + 1);
    let onto_itself = state.to_string_lossy().into_owned();
    refused(&coordinator(&state, &["backup", &onto_itself]), 3, "itself");
    refused(&coordinator(&lost, &["backup", &onto_itself]), 3, "uses it");
    let mut other = World::new(&[]);
    other.coordinator.kill();
    refused(
        &coordinator(&other.path("state"), &["backup", &lost.to_string_lossy()]),
        3,
        "another coordinator",
    );
    let inside = state
        .join("artifacts/sha256/copy")
        .to_string_lossy()
        .into_owned();
    refused(&coordinator(&state, &["backup", &inside]), 3, "lies in it");
    let foreign = world.path("tiny").to_string_lossy().into_owned();
    refused(
        &coordinator(&state, &["backup", &foreign]),
        3,
        "other files",
    );
    let empty = world.path("empty");
    refused(
        &coordinator(&empty, &["backup", &folder]),
        3,
        "holds no database",
    );
}

#[test]
fn jobs_move_to_postgres_under_a_worker_that_trains_on() {
    let server = Postgres::start();
    let url = server.database("jobs");
    let mut world = World::new(&[]);
    let worker = world.worker("a", &[]);
    let first = world.submit(&world.config(SHORT), &[]);
    world.ended(first);
    let id = world.submit(&world.config(LONG), &[]);
    world.wait(id, "a first step", |job| job["step"].as_u64() > Some(0));
    let state = world.path("state");
    refused(
        &coordinator(&state, &["move", "--database", &url]),
        5,
        "another coordinator",
    );
    world.coordinator.kill();
    let told = stdout(&coordinator(&state, &["move", "--database", &url]));
    assert!(told.contains("2 jobs"), "{told}");
    world.restart_coordinator_with(&["--database", &url]);
    let job = world.ended(id);
    assert_eq!(job["phase"], "succeeded", "{job:#}");
    let attempts = job["attempts"].as_array().map(Vec::len);
    assert_eq!(attempts, Some(1), "{job:#}; {}", worker.log());
    assert_eq!(world.job(first)["phase"], "succeeded");
    world.coordinator.kill();
    // Nobody serves the old one by mistake, and what was moved is not moved again.
    refused(
        &coordinator(&state, &["move", "--database", &url]),
        3,
        "were moved",
    );
    let alone = ["--listen", "127.0.0.1:0"];
    refused(&coordinator(&state, &alone), 3, "were moved");
}

#[test]
fn a_move_waits_for_no_coordinator_that_leads() {
    let server = Postgres::start();
    let url = server.database("jobs");
    let _leads = World::new(&["--database", &url]);
    let mut old = World::new(&[]);
    old.coordinator.kill();
    let state = old.path("state");
    refused(
        &coordinator(&state, &["move", "--database", &url]),
        5,
        "stop it first",
    );
    assert!(state.join("qlora.db").is_file());
}
