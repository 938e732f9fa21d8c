//! Jobs that people pause, resume, do again and delete, by the real programs.

use std::collections::BTreeSet;
use std::fs;

use qlora_tests::{World, wait_until};
use serde_json::Value;

use crate::faults::{self, adapter, checkpointed};
use crate::page::http;

const LONG: &str = "training: {max_steps: 200, checkpoint_every: 10, eval_rows: 2}";

fn ok(world: &World, args: &[&str]) -> String {
    let answer = world.ctl(args);
    assert_eq!(answer.code, 0, "{args:?}: {}", answer.stderr);
    answer.stdout + &answer.stderr
}

fn refused(world: &World, args: &[&str], why: &str) {
    let answer = world.ctl(args);
    assert_eq!(answer.code, 5, "{args:?}: {}", answer.stderr);
    assert!(answer.stderr.contains(why), "{args:?}: {}", answer.stderr);
}

fn is(state: &str) -> impl Fn(&Value) -> bool {
    move |job| job["state"] == state
}

/// Steps of the checkpoints of a job.
fn steps(job: &Value) -> Vec<u64> {
    let all = job["artifacts"].as_array().into_iter().flatten();
    all.filter(|a| a["kind"] == "checkpoint")
        .filter_map(|a| a["step"].as_u64())
        .collect()
}

/// Digests of what a job has made.
fn made(job: &Value) -> BTreeSet<String> {
    let all = job["artifacts"].as_array().into_iter().flatten();
    all.filter_map(|a| a["digest"].as_str().map(str::to_owned))
        .collect()
}

/// Digests of what a job was given.
fn rows(job: &Value) -> BTreeSet<String> {
    let all = job["files"].as_array().into_iter().flatten();
    all.filter_map(|file| file["digest"].as_str().map(str::to_owned))
        .collect()
}

/// Digests of what lies in the artifact store.
fn stored(world: &World) -> BTreeSet<String> {
    let shelves = fs::read_dir(world.path("state/artifacts/sha256")).expect("a folder");
    let files = shelves.flat_map(|shelf| fs::read_dir(shelf.expect("a shelf").path()));
    files
        .flatten()
        .map(|file| {
            let name = file.expect("a file").file_name();
            name.to_string_lossy().into_owned()
        })
        .collect()
}

#[test]
fn a_paused_job_frees_its_worker_and_ends_with_the_adapter_of_one_that_was_not() {
    let mut world = World::new(&[]);
    let _worker = world.worker("a", &[]);
    let config = world.config(LONG);
    let paused = world.submit(&config, &[]);
    let number = paused.to_string();
    world.wait(paused, "a checkpoint", checkpointed);
    assert!(ok(&world, &["pause", &number, "--reason", "lunch"]).contains("pausing"));
    let job = world.wait(paused, "the pause", is("paused"));
    assert_eq!(job["reason"], "lunch");
    let explained = ok(&world, &["explain", &number]);
    assert!(
        explained.contains(&format!("qlora-ctl resume {number}")),
        "{explained}"
    );

    // Its worker is free for another.
    let whole = world.submit(&config, &[]);
    assert_eq!(world.ended(whole)["state"], "succeeded");
    assert_eq!(world.job(paused)["state"], "paused");
    let listed = ok(&world, &["jobs", "--state", "paused", "--json"]);
    assert_eq!(listed.lines().count(), 1, "{listed}");

    world.coordinator.kill();
    world.restart_coordinator();
    assert_eq!(world.job(paused)["state"], "paused");
    ok(&world, &["resume", &number]);
    assert_eq!(world.ended(paused)["state"], "succeeded");
    assert!(
        adapter(&world, paused) == adapter(&world, whole),
        "the job that was paused ends otherwise"
    );
}

#[test]
fn a_job_goes_back_to_an_earlier_checkpoint() {
    let mut world = World::new(&[]);
    let mut first = world.worker("a", &[]);
    let config = world.config(LONG);
    let id = world.submit(&config, &["--set", "training.checkpoints_to_keep=0"]);
    let number = id.to_string();
    world.wait(id, "two checkpoints", |job| steps(job).len() > 1);
    ok(&world, &["pause", &number]);
    let paused = world.wait(id, "the pause", is("paused"));
    assert_eq!(first.stop(), Some(0), "{}", first.log());
    refused(
        &world,
        &["resume", &number, "--from", "7"],
        "has no checkpoint of step 7; it has those of 10",
    );
    ok(&world, &["resume", &number, "--from", "10"]);
    // Nobody works on it yet: what lies behind the step is gone, and so are its files.
    let resumed = world.job(id);
    assert_eq!(steps(&resumed), [10]);
    let later: BTreeSet<String> = &made(&paused) - &made(&resumed);
    assert!(!later.is_empty(), "{paused:#}");
    wait_until("the end of later checkpoints", || {
        Some(()).filter(|()| stored(&world).is_disjoint(&later))
    });
    assert!(stored(&world).is_superset(&made(&resumed)));
    // The answer was lost, and it is asked for once more.
    ok(&world, &["resume", &number, "--from", "10"]);

    let _second = world.worker("b", &[]);
    world.wait(id, "a later checkpoint", |job| {
        steps(job).iter().any(|step| *step > 10)
    });
    let log = ok(&world, &["logs", &number]);
    assert!(
        log.contains("going on from the checkpoint of step 10"),
        "{log}"
    );
    ok(&world, &["cancel", &number, "--yes"]);
}

#[test]
fn a_retry_goes_on_from_the_checkpoint_of_the_job_that_was_cancelled() {
    let mut world = World::new(&[]);
    let _worker = world.worker("a", &[]);
    let id = world.submit(&world.config(LONG), &[]);
    world.wait(id, "a checkpoint", checkpointed);
    ok(&world, &["cancel", &id.to_string(), "--yes"]);
    let cancelled = world.wait(id, "its end", is("cancelled"));
    let last = *steps(&cancelled).iter().max().expect("a checkpoint");

    let again = ok(&world, &["retry", &id.to_string(), "--json"]);
    let again: Value = serde_json::from_str(again.trim()).expect("JSON");
    let again = again["job"].as_u64().expect("a number");
    world.wait(again, "a step of its own", |job| {
        job["step"].as_u64() > Some(last)
    });
    let log = ok(&world, &["logs", &again.to_string()]);
    let begins = format!("going on from the checkpoint of step {last}");
    assert!(log.contains(&begins), "{log}");
    assert!(faults::steps(&world, again).first() > Some(&last));
    ok(&world, &["cancel", &again.to_string(), "--yes"]);
}

#[test]
fn a_cancelled_job_is_done_again_and_ended_ones_are_deleted() {
    let mut world = World::new(&[]);
    let config = world.config("training: {max_steps: 4, checkpoint_every: 2}");
    let [first, second] = [(); 2].map(|()| world.submit(&config, &[]).to_string());
    refused(
        &world,
        &["rm", &first, "--yes"],
        &format!("only an ended job can be removed; qlora-ctl cancel {first} ends it"),
    );
    // Both are tried though one is refused.
    ok(&world, &["cancel", &first, "--yes"]);
    let both = world.ctl(&["cancel", &first, &second, "--yes"]);
    assert_eq!(both.code, 5, "{}", both.stderr);
    assert!(both.stderr.contains("has ended"), "{}", both.stderr);
    assert_eq!(
        world.job(second.parse().expect("a number"))["state"],
        "cancelled"
    );

    let _worker = world.worker("a", &[]);
    let again = ok(&world, &["retry", &first, "--json"]);
    let again: Value = serde_json::from_str(again.trim()).expect("JSON");
    assert_eq!(again["retry_of"], first.parse::<u64>().expect("a number"));
    let id = again["job"].as_u64().expect("a number");
    assert_eq!(world.ended(id)["state"], "succeeded");
    let id = id.to_string();
    refused(&world, &["retry", &id], "--from-start");
    ok(&world, &["retry", &id, "--from-start", "--watch"]);

    let told = ok(&world, &["rm", &first, &second, &id, "--yes"]);
    assert!(told.contains("deleted"), "{told}");
    for gone in [&first, &second, &id] {
        refused(&world, &["show", gone], "there is no job");
        refused(&world, &["logs", gone], "there is no job");
    }
    // What the last job needs stays, and nothing else.
    let last = world.job(4);
    let needed = &made(&last) | &rows(&last);
    assert!(
        !made(&last).is_empty() && !rows(&last).is_empty(),
        "{last:#}"
    );
    wait_until("the end of what nothing needs", || {
        Some(()).filter(|()| stored(&world) == needed)
    });

    world.coordinator.kill();
    world.restart_coordinator();
    let listed = ok(&world, &["jobs", "--json"]);
    assert_eq!(listed.lines().count(), 1, "{listed}");
    // Nobody has been told of them since.
    ok(&world, &["rm", "4", "--yes"]);
    wait_until("the end of all artifacts", || {
        Some(()).filter(|()| stored(&world).is_empty())
    });
    assert!(world.submit(&config, &[]) > 4, "a number was given again");
}

#[test]
fn a_job_is_paused_and_resumed_on_its_page() {
    let world = World::new(&[]);
    let config = world.config("training: {max_steps: 2}");
    let id = world.submit(&config, &[]);
    let own = format!("http://{}", world.address);
    for (act, state, then) in [("pause", "paused", "resume"), ("resume", "queued", "pause")] {
        let path = format!("/j/{id}/{act}");
        assert_eq!(http(&world, "POST", &path, &[("Origin", "null")]).0, 403);
        assert_eq!(http(&world, "POST", &path, &[("Origin", &own)]).0, 303);
        assert_eq!(world.job(id)["state"], state);
        let (_, _, body) = http(&world, "GET", &format!("/j/{id}"), &[]);
        let shown = String::from_utf8_lossy(&body).into_owned();
        assert!(
            shown.contains(&format!("action=\"/j/{id}/{then}\"")),
            "{shown}"
        );
    }
}

#[test]
fn a_job_of_a_greater_priority_starts_first() {
    let mut world = World::new(&[]);
    let config = world.config("training: {max_steps: 2}");
    let plain = world.submit(&config, &[]);
    let urgent = world.submit(&config, &["--set", "resources.priority=5"]);
    let explained = ok(&world, &["show", &plain.to_string(), "--json"]);
    assert!(explained.contains("\"priority\":0"), "{explained}");
    let _worker = world.worker("a", &[]);
    let (first, second) = (world.ended(urgent), world.ended(plain));
    let started = |job: &Value| {
        job["attempts"][0]["started_unix_ms"]
            .as_u64()
            .expect("a time")
    };
    assert!(started(&first) < started(&second), "{first:#} {second:#}");
}
