//! Disks that are full, at whatever the programs write beside the database: each says what is full,
//! and goes on by itself, or where it was, when there is room.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use qlora_testkit::skip;
use qlora_tests::{Hub, Program, World, launch, wait_until};
use serde_json::Value;

use crate::disk::Disk;
use crate::faults::{adapter, checkpointed, steps, succeeded_once};

const LONG: &str = "training: {max_steps: 400, checkpoint_every: 10, eval_rows: 2}";
/// The job fails with the first fault that counts.
const SHORT: &str = "training: {max_steps: 2}\nresources: {max_retries: 0}";

fn borrowed(env: &[(String, String)]) -> Vec<(&str, &str)> {
    env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect()
}

/// A worker whose state folder is on `disk`, once it has registered.
fn worker_on(world: &World, disk: &Disk) -> Program {
    let env = disk.env();
    let worker = world.worker_in_with("a", &world.path("state-of-a"), &borrowed(&env));
    wait_until("a registration", || {
        worker.log().contains("registered").then_some(())
    });
    worker
}

/// Waits until an attempt of the job has ended for want of room at `place`; the job waits then.
fn waits_for_room(world: &World, id: u64, place: &str) {
    let outcome = |job: &Value| {
        let attempts = job["attempts"].as_array()?;
        let outcomes = attempts.iter().filter_map(|a| a["outcome"].as_str());
        let mut full = outcomes.filter(|text| text.contains("No space left on device"));
        full.next().map(str::to_owned)
    };
    let job = world.wait(id, "an attempt without room", |job| outcome(job).is_some());
    let outcome = outcome(&job).expect("its outcome");
    assert!(outcome.contains(place), "{outcome}");
    assert!(
        matches!(job["state"].as_str(), Some("queued" | "running")),
        "{job:#}"
    );
}

#[test]
fn an_attempt_whose_worker_has_no_room_says_so_and_the_job_waits_for_it() {
    let world = World::new(&[]);
    let disk = Disk::new("/state-of-a/");
    let _worker = worker_on(&world, &disk);
    disk.set_full(true);
    let id = world.submit(&world.config(SHORT), &[]);
    waits_for_room(&world, id, "state-of-a/jobs/");
    assert!(disk.has_failed());
    disk.set_full(false);
    succeeded_once(&world.ended(id));
}

#[test]
fn a_worker_that_cannot_begin_for_want_of_room_ends_and_names_the_file() {
    let world = World::new(&[]);
    let disk = Disk::new("/state-of-a/");
    let env = disk.env();
    let state = world.path("state-of-a");
    fs::create_dir(&state).expect("a folder");
    disk.set_full(true);
    let mut refused = world.worker_in_with("a", &state, &borrowed(&env));
    assert_ne!(refused.exit_code(), Some(0));
    let log = refused.log();
    assert!(
        log.contains("[Q0607]") && log.contains("state-of-a/"),
        "{log}"
    );
    disk.set_full(false);
    worker_on(&world, &disk);
}

#[test]
fn a_checkpoint_without_room_is_waited_for_and_changes_nothing_of_the_run() {
    let world = World::new(&[]);
    let disk = Disk::new("/state-of-a/");
    let _worker = worker_on(&world, &disk);
    let config = world.config(LONG);
    let whole = world.submit(&config, &[]);
    world.ended(whole);
    let id = world.submit(&config, &[]);
    world.wait(id, "a checkpoint", checkpointed);
    disk.set_full(true);
    let waits = |job: &Value| {
        let phase = job["phase"].as_str().unwrap_or_default();
        phase.starts_with("waiting for room on ") && phase.contains("state-of-a/")
    };
    world.wait(id, "a wait for room", waits);
    disk.set_full(false);
    let job = world.ended(id);
    succeeded_once(&job);
    assert_eq!(job["attempts"].as_array().map(Vec::len), Some(1), "{job:#}");
    assert_eq!(steps(&world, id), (1..=400).collect::<Vec<_>>());
    assert!(adapter(&world, id) == adapter(&world, whole));
    let log = world.ctl(&["logs", &id.to_string()]).stdout;
    assert!(log.contains("no room on the worker's disk for"), "{log}");
}

#[test]
fn what_is_kept_for_a_coordinator_that_is_away_is_kept_once_there_is_room() {
    let mut world = World::new(&["--lease", "120"]);
    let disk = Disk::new("/state-of-a/");
    let worker = worker_on(&world, &disk);
    let config = world.config("training: {max_steps: 1000000, checkpoint_every: 0, eval_rows: 2}");
    let id = world.submit(&config, &[]);
    world.wait(id, "a first step", |job| job["step"].as_u64() > Some(0));
    disk.set_full(true);
    world.coordinator.kill();
    wait_until("word of the full disk", || {
        let log = worker.log();
        let told = log.contains("cannot be written down in") && log.contains("No space left");
        told.then_some(())
    });
    disk.set_full(false);
    wait_until("what is left to hand in", || {
        let mut folders = fs::read_dir(world.path("state-of-a/jobs")).ok()?;
        let record = folders.find_map(Result::ok)?.path().join("handover.json");
        record.exists().then_some(())
    });
    world.restart_coordinator();
    let from = world.job(id)["step"].as_u64();
    let job = world.wait(id, "further steps", |job| job["step"].as_u64() > from);
    assert_eq!(job["attempts"].as_array().map(Vec::len), Some(1), "{job:#}");
}

#[test]
fn an_upload_to_a_coordinator_without_room_for_it_goes_on_when_there_is_some() {
    let disk = Disk::new("/state/artifacts/");
    let env = disk.env();
    let mut world = World::with_env(&[], &borrowed(&env));
    let worker = world.worker("a", &[]);
    let id = world.submit(&world.config(LONG), &[]);
    world.wait(id, "a first step", |job| job["step"].as_u64() > Some(0));
    disk.set_full(true);
    wait_until("word of the full disk", || {
        let log = worker.log();
        (log.contains("is full") && log.contains("trying again")).then_some(())
    });
    // A person is told at once, and nothing of the submission is there.
    let config = world.config(SHORT);
    fs::write(world.path("train.jsonl"), qlora_tests::conversations(9)).expect("rows");
    let refused = world.ctl(&["submit", &config.to_string_lossy()]);
    // As every other trouble of the coordinator's own.
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    assert!(refused.stderr.contains("Q0410"), "{}", refused.stderr);
    assert!(refused.stderr.contains("is full"), "{}", refused.stderr);
    assert_eq!(world.ctl(&["jobs", "--json"]).json().len(), 1);
    disk.set_full(false);
    let job = world.ended(id);
    succeeded_once(&job);
    assert_eq!(job["attempts"].as_array().map(Vec::len), Some(1), "{job:#}");
    assert_eq!(steps(&world, id), (1..=400).collect::<Vec<_>>());
    let parts = fs::read_dir(world.path("state/artifacts/partial")).expect("a folder");
    assert_eq!(parts.count(), 0);
    let second = world.submit(&config, &[]);
    succeeded_once(&world.ended(second));
}

#[test]
fn a_token_that_was_not_made_for_want_of_room_is_told_by_no_log() {
    let disk = Disk::new("/state/qlora.db");
    let env = disk.env();
    let world = World::with_env(&[], &borrowed(&env));
    let create = ["token", "create", "--role", "viewer", "--name", "guest"];
    disk.set_full(true);
    let refused = world.ctl(&create);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    let says = "nothing was changed, try again";
    assert!(refused.stderr.contains(says), "{}", refused.stderr);
    let is_told = || world.coordinator.log().contains("guest of the role viewer");
    assert!(!is_told(), "{}", world.coordinator.log());
    disk.set_full(false);
    let made = world.ctl(&create);
    assert_eq!(made.code, 0, "{}", made.stderr);
    assert!(is_told());
}

#[test]
fn a_model_that_the_disk_stops_holding_is_fetched_on_when_it_holds_it() {
    let mut world = World::new(&[]);
    let disk = Disk::new("/models/");
    let hub = Hub::of(&world.path("tiny"));
    // Within the weights.
    hub.stand_still_after(100_000);
    let models = world.path("models").to_string_lossy().into_owned();
    let mut env = disk.env();
    env.push(("HF_ENDPOINT".into(), hub.url.clone()));
    env.push(("QLORA_MODEL_DIR".into(), models));
    let _worker = world.worker_with("a", &borrowed(&env));
    let id = world.submit(&world.config(SHORT), &["--set", "model.base=own/tiny"]);
    wait_until("a hub that stands still", || {
        hub.stands_still().then_some(())
    });
    disk.set_full(true);
    hub.go_on();
    waits_for_room(&world, id, "model.safetensors.partial");
    disk.set_full(false);
    succeeded_once(&world.ended(id));
    let asked = hub.asked("model.safetensors");
    assert!(asked.last() > Some(&0), "it was begun anew: {asked:?}");
}

#[test]
fn what_a_person_gets_onto_a_full_disk_is_named_and_got_when_there_is_room() {
    let mut world = World::new(&[]);
    let disk = Disk::new("/out/");
    let _worker = world.worker("a", &[]);
    let id = world.submit(&world.config(SHORT), &[]);
    world.ended(id);
    fs::create_dir(world.path("out")).expect("a folder");
    let env = disk.env();
    let (number, out) = (id.to_string(), world.path("out/adapter"));
    let out = out.to_string_lossy();
    let args = ["artifacts", "get", &number, "--output", &out];
    disk.set_full(true);
    let refused = world.ctl_with(&args, &borrowed(&env));
    assert!(disk.has_failed());
    assert_ne!(refused.code, 0);
    assert!(
        refused.stderr.contains("[Q0607]") && refused.stderr.contains("/out/"),
        "{}",
        refused.stderr
    );
    disk.set_full(false);
    let got = world.ctl_with(&args, &borrowed(&env));
    assert_eq!(got.code, 0, "{}", got.stderr);
    let left: Vec<_> = fs::read_dir(world.path("out"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(left, ["adapter"]);
    assert!(world.path("out/adapter/adapter_model.safetensors").exists());
}

/// A small file system in memory, as long as it lives.
struct Small(PathBuf);

impl Small {
    /// None where this machine does not let the test mount one.
    fn mount(folder: PathBuf, size: &str) -> Option<Self> {
        fs::create_dir(&folder).expect("a folder");
        let options = format!("size={size}");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &options, "none"])
            .arg(&folder);
        ran(&mut mount).then(|| Self(folder))
    }

    fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        let mut mount = Command::new("mount");
        mount.args(["-o", &options]).arg(&self.0);
        assert!(ran(&mut mount), "it cannot be made larger");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        ran(Command::new("umount").arg(&self.0));
    }
}

fn ran(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[test]
fn a_model_is_not_begun_where_a_file_system_does_not_hold_it_and_is_fetched_into_one_that_does() {
    let world = World::new(&[]);
    let Some(small) = Small::mount(world.path("small"), "256k") else {
        return skip("no file system can be mounted here");
    };
    let hub = Hub::of(&world.path("tiny"));
    let fetch = || -> Output {
        let mut command = launch("qlora-worker");
        command
            .args(["model", "fetch", "own/tiny"])
            .env("HF_ENDPOINT", &hub.url)
            .env("QLORA_MODEL_DIR", &small.0);
        command.output().expect("qlora-worker runs")
    };
    let refused = fetch();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    for words in ["[Q0607]", "model.safetensors", "make room"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(hub.asked("model.safetensors"), [0; 0]);
    small.resize("64m");
    let got = fetch();
    let said = String::from_utf8_lossy(&got.stderr).into_owned();
    assert!(got.status.success(), "{said}");
    assert!(small.0.join("own--tiny/model.safetensors").exists());
}
