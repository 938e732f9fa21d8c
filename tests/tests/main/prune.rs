//! Ended jobs that go by age, number and bytes, by the real programs.

use std::fs;

use qlora_tests::{Ctl, World, wait_until};
use serde_json::Value;

use crate::page::http;

fn ok(world: &World, args: &[&str]) -> Ctl {
    let answer = world.ctl(args);
    assert_eq!(answer.code, 0, "{args:?}: {}", answer.stderr);
    answer
}

/// Jobs that were cancelled before anybody ran them.
fn cancelled(world: &World, many: usize) -> Vec<String> {
    let config = world.config("training: {max_steps: 2}");
    let submit = |_| world.submit(&config, &[]).to_string();
    let all: Vec<String> = (0..many).map(submit).collect();
    for id in &all {
        ok(world, &["cancel", id, "--yes"]);
    }
    all
}

/// The numbers of all jobs, newest first.
fn numbers(world: &World) -> Vec<u64> {
    let listed = ok(world, &["jobs", "--json"]).json();
    listed
        .iter()
        .filter_map(|job| job["job"].as_u64())
        .collect()
}

/// Files of the artifact store.
fn stored(world: &World) -> usize {
    let shelves = fs::read_dir(world.path("state/artifacts/sha256")).expect("shelves");
    shelves
        .map(|shelf| fs::read_dir(shelf.expect("a shelf").path()).expect("a shelf"))
        .map(Iterator::count)
        .sum()
}

#[test]
fn ended_jobs_are_shown_first_and_then_deleted_and_the_newest_stay() {
    let mut world = World::new(&[]);
    let all = cancelled(&world, 3);
    let waits = world.submit(&world.path("config.yaml"), &[]).to_string();
    let before = stored(&world);
    assert!(before > 0);

    let shown = ok(&world, &["prune", "--keep", "1", "--dry-run", "--json"]).json();
    let would_go: Vec<&Value> = shown.iter().map(|line| &line["job"]).collect();
    assert_eq!(would_go, [&Value::from(1), &Value::from(2), &Value::Null]);
    let sum = shown.last().expect("a sum");
    assert_eq!((&sum["jobs"], &sum["dry_run"]), (&2.into(), &true.into()));
    assert_eq!(sum["bytes"], 0, "other jobs need the same rows");
    assert_eq!(numbers(&world), [4, 3, 2, 1]);
    let table = ok(&world, &["prune", "--keep", "1", "--dry-run"]);
    assert!(table.stdout.contains("cancelled"), "{}", table.stdout);
    assert!(table.stderr.contains("2 jobs"), "{}", table.stderr);

    for args in [&["prune"][..], &["prune", "--keep", "1"]] {
        assert_eq!(world.ctl(args).code, 2, "{args:?}");
    }
    let none = ok(&world, &["prune", "--older-than", "1", "--yes"]);
    assert!(
        none.stderr.contains("nothing is deleted"),
        "{}",
        none.stderr
    );
    assert_eq!(numbers(&world), [4, 3, 2, 1]);

    let told = ok(&world, &["prune", "--keep", "1", "--yes"]);
    assert!(told.stderr.contains("deleted 2 jobs"), "{}", told.stderr);
    assert_eq!(numbers(&world), [4, 3]);
    assert_eq!(stored(&world), before, "what others need stays");

    ok(&world, &["cancel", &waits, "--yes"]);
    // The rows were told of within a day, and stay for who may be about to submit them; a coordinator
    // that starts has told nobody.
    assert_eq!(world.coordinator.stop(), Some(0));
    world.restart_coordinator();
    let gone = ok(&world, &["prune", "--keep", "0", "--yes", "--json"]).json();
    assert_eq!(gone.len(), 3, "{gone:?}");
    assert!(gone[2]["bytes"].as_u64() > Some(0), "{gone:?}");
    assert_eq!(numbers(&world), [0; 0]);
    wait_until("the artifacts to go", || {
        Some(()).filter(|()| stored(&world) == 0)
    });
    for id in all {
        assert_eq!(world.ctl(&["show", &id]).code, 5);
    }
}

#[test]
fn artifacts_or_logs_go_and_the_job_stays() {
    let mut world = World::new(&[]);
    let _worker = world.worker("a", &[]);
    let config = world.config("training: {max_steps: 4, checkpoint_every: 2}");
    let id = world.submit(&config, &[]);
    let number = id.to_string();
    let before = world.ended(id);
    assert_eq!(before["state"], "succeeded");
    let files = before["files"].as_array().map_or(0, Vec::len);

    let args = [
        "prune",
        "--keep",
        "0",
        "--artifacts-only",
        "--yes",
        "--json",
    ];
    let gone = ok(&world, &args).json();
    let made: u64 = before["artifacts"]
        .as_array()
        .expect("artifacts")
        .iter()
        .filter_map(|artifact| artifact["size"].as_u64())
        .sum();
    assert_eq!(gone[0]["bytes"].as_u64(), Some(made));
    wait_until("the artifacts to go", || {
        Some(()).filter(|()| stored(&world) == files)
    });
    let job = world.job(id);
    assert_eq!(
        (&job["state"], &job["artifacts"], &job["artifacts_pruned"]),
        (&before["state"], &Value::Array(Vec::new()), &true.into())
    );
    let get = world.ctl(&["artifacts", "get", &number]);
    assert_eq!(get.code, 2, "{}", get.stderr);
    assert!(get.stderr.contains("were deleted"), "{}", get.stderr);
    assert!(ok(&world, &["logs", &number]).stdout.contains("step 4/4"));

    ok(&world, &["prune", "--keep", "0", "--logs-only", "--yes"]);
    for args in [["logs", &number], ["metrics", &number]] {
        assert_eq!(ok(&world, &args).stdout, "", "{args:?}");
    }
    let shown = ok(&world, &["show", &number]).stdout;
    assert!(
        shown.contains("checkpoints, adapters, metrics and log"),
        "{shown}"
    );
    for part in ["--artifacts-only", "--logs-only"] {
        let args = ["prune", "--keep", "0", part, "--dry-run", "--json"];
        assert_eq!(ok(&world, &args).json()[0]["jobs"], 0, "{part}");
    }
    assert_eq!(http(&world, "GET", &format!("/j/{id}"), &[]).0, 200);
}

#[test]
fn a_coordinator_that_keeps_one_ended_job_deletes_the_others_and_says_why() {
    let mut world = World::new(&["--keep-jobs", "1"]);
    cancelled(&world, 3);
    let waits = world.submit(&world.path("config.yaml"), &[]);
    assert_eq!(world.coordinator.stop(), Some(0));
    world.restart_coordinator();
    wait_until("the jobs to go", || {
        Some(()).filter(|()| numbers(&world) == [waits, 3])
    });
    let log = world.coordinator.log();
    assert!(log.contains("(--keep-jobs)"), "{log}");
    assert_eq!(world.job(waits)["state"], "queued");
}

#[test]
fn without_an_option_nothing_is_deleted_and_bytes_on_disk_are_told() {
    let mut world = World::new(&[]);
    cancelled(&world, 2);
    assert_eq!(world.coordinator.stop(), Some(0));
    world.restart_coordinator();
    assert_eq!(numbers(&world), [2, 1]);
    let (status, _, body) = http(&world, "GET", "/metrics", &[]);
    assert_eq!(status, 200);
    let text = String::from_utf8_lossy(&body).into_owned();
    for kind in ["database", "artifacts"] {
        let is_it = |line: &&str| {
            line.starts_with("qlora_store_bytes{") && line.contains(&format!("kind=\"{kind}\""))
        };
        let line = text.lines().find(is_it).unwrap_or_else(|| panic!("{text}"));
        let bytes: f64 = line
            .rsplit(' ')
            .next()
            .and_then(|value| value.parse().ok())
            .expect("a number");
        assert!(bytes > 0.0, "{line}");
    }
    let told = ok(&world, &["jobs"]).stderr;
    assert!(
        told.contains("database") && told.contains("artifacts"),
        "{told}"
    );
}
