//! Workers that an operator drains, and jobs that go where their model is, by the real programs.

use std::fs;

use qlora_tests::{World, wait_until};
use serde_json::Value;

use crate::faults::checkpointed;
use crate::page::http;

const LONG: &str = "training: {max_steps: 200, checkpoint_every: 10, eval_rows: 2}";

fn ok(world: &World, args: &[&str]) -> String {
    let answer = world.ctl(args);
    assert_eq!(answer.code, 0, "{args:?}: {}", answer.stderr);
    answer.stdout + &answer.stderr
}

/// The worker `name` as JSON, once it satisfies `f`.
fn worker(world: &World, name: &str, what: &str, f: impl Fn(&Value) -> bool) -> Value {
    wait_until(what, || {
        let all = world.ctl(&["workers", "--json"]).json();
        all.into_iter().find(|w| w["worker"] == name && f(w))
    })
}

#[test]
fn a_drained_worker_finishes_its_job_and_is_given_no_other_until_it_is_undrained() {
    let mut world = World::new(&[]);
    let state = world.path("state-of-a");
    let mut program = world.worker_in("a", &state, &[]);
    let config = world.config(LONG);
    let (first, second) = (world.submit(&config, &[]), world.submit(&config, &[]));
    world.wait(first, "a checkpoint", checkpointed);
    let told = ok(&world, &["drain", "a", "--reason", "new disk"]);
    assert!(told.contains(&format!("finishes job {first}")), "{told}");
    assert_eq!(world.ended(first)["state"], "succeeded");

    // Neither a restart of the coordinator nor one of the worker undoes it.
    world.coordinator.kill();
    world.restart_coordinator();
    program.stop();
    let _again = world.worker_in("a", &state, &[]);
    let there = worker(&world, "a", "the worker", |w| w["connected"] == true);
    assert_eq!(there["drained"]["reason"], "new disk");
    assert_eq!(there["draining"], false);
    assert_eq!(world.job(second)["state"], "queued");
    let number = second.to_string();
    let explained = ok(&world, &["explain", &number]);
    assert!(
        explained.contains("was drained") && explained.contains("ago: new disk"),
        "{explained}"
    );
    let listed = ok(&world, &["workers"]);
    assert!(
        listed.contains(" drained ") && listed.contains(": new disk"),
        "{listed}"
    );
    let (_, _, page) = http(&world, "GET", "/", &[]);
    let page = String::from_utf8_lossy(&page).into_owned();
    assert!(page.contains(">drained<"), "{page}");
    assert!(page.contains(": new disk<"), "{page}");

    ok(&world, &["undrain", "a"]);
    assert_eq!(world.ended(second)["state"], "succeeded");
    let there = worker(&world, "a", "the worker", |_| true);
    assert_eq!(there["drained"], Value::Null);
}

#[test]
fn a_job_whose_worker_is_drained_at_once_goes_on_elsewhere() {
    let mut world = World::new(&[]);
    let _a = world.worker("a", &[]);
    let config = world.config(LONG);
    let id = world.submit(&config, &["--set", "resources.max_retries=0"]);
    world.wait(id, "a checkpoint", checkpointed);
    let told = ok(&world, &["drain", "a", "--now"]);
    assert!(told.contains(&format!("job {id} saves")), "{told}");
    let waits = |job: &Value| job["state"] == "queued" && checkpointed(job);
    world.wait(id, "the queue", waits);

    let _b = world.worker("b", &[]);
    let job = world.ended(id);
    assert_eq!(
        (&job["state"], &job["worker"]),
        (&"succeeded".into(), &"b".into())
    );
    let attempts = job["attempts"].as_array().expect("attempts");
    assert_eq!(attempts.len(), 2, "{job:#}");
    let outcome = attempts[0]["outcome"].as_str().expect("an outcome");
    assert!(
        outcome.starts_with("stopped: worker a is drained: by user")
            && outcome.ends_with("the job will resume"),
        "{outcome}"
    );
}

#[test]
fn a_worker_that_is_not_there_is_refused_with_those_that_are_called_alike() {
    let mut world = World::new(&[]);
    let told = ok(&world, &["drain", "--all"]);
    assert!(told.contains("no worker is connected"), "{told}");
    let _workers = ["gpu-0", "gpu-1"].map(|name| world.worker(name, &[]));
    for name in ["gpu-0", "gpu-1"] {
        worker(&world, name, "a worker", |w| w["connected"] == true);
    }
    for command in ["drain", "undrain"] {
        let refused = world.ctl(&[command, "gpu1"]);
        assert_eq!(refused.code, 5, "{}", refused.stderr);
        let why = "there is no worker gpu1; did you mean gpu-1?";
        assert!(refused.stderr.contains(why), "{}", refused.stderr);
    }
    // The others are drained all the same.
    let both = world.ctl(&["drain", "other", "gpu-1"]);
    assert_eq!(both.code, 5, "{}", both.stderr);
    assert!(!both.stderr.contains("did you mean"), "{}", both.stderr);
    let drained = |name: &str| !worker(&world, name, "a worker", |_| true)["drained"].is_null();
    assert!(!drained("gpu-0") && drained("gpu-1"));
    ok(&world, &["drain", "--all"]);
    assert!(drained("gpu-0") && drained("gpu-1"));
    assert_eq!(world.ctl(&["drain"]).code, 2);
    assert_eq!(world.ctl(&["drain", "--all", "gpu-0"]).code, 2);
}

#[test]
fn a_job_goes_to_the_worker_that_has_its_model() {
    let mut world = World::new(&[]);
    let (without, with) = (world.path("without"), world.path("with"));
    let model = with.join("own--tiny");
    fs::create_dir_all(&without).expect("a folder");
    fs::create_dir_all(&model).expect("a folder");
    for file in fs::read_dir(world.path("tiny")).expect("a model") {
        let file = file.expect("a file");
        fs::copy(file.path(), model.join(file.file_name())).expect("a copy");
    }
    fs::write(model.join(".complete"), "").expect("a mark");
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let _a = world.worker_with("a", &[("QLORA_MODEL_DIR", &text(&without))]);
    let _b = world.worker_with("b", &[("QLORA_MODEL_DIR", &text(&with))]);
    let has = |w: &Value| w["models"] == serde_json::json!(["own/tiny"]);
    worker(&world, "a", "a worker", |w| w["connected"] == true);
    worker(&world, "b", "its models", has);

    let config = world.config("training: {max_steps: 2}");
    let base = ["--set", "model.base=own/tiny"];
    let job = world.ended(world.submit(&config, &base));
    assert_eq!(
        (&job["state"], &job["worker"]),
        (&"succeeded".into(), &"b".into())
    );

    ok(&world, &["drain", "--all", "--reason", "a test"]);
    let waits = world.submit(&config, &base).to_string();
    let explained = ok(&world, &["explain", &waits]);
    assert!(explained.contains("a is suitable, but"), "{explained}");
    assert!(
        explained.contains("b is suitable and has the model, but was drained"),
        "{explained}"
    );
}
