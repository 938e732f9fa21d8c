//! Programs that are killed, restarted and cut off in the middle of a job.

use std::collections::BTreeSet;
use std::fs;

use qlora_tests::{World, conversations, http, wait_until};
use rustix::process::{Pid, Signal};
use serde_json::Value;

/// Long enough to be interrupted, with a checkpoint every ten steps.
const LONG: &str = "training: {max_steps: 400, checkpoint_every: 10, eval_rows: 2}";

pub fn checkpointed(job: &Value) -> bool {
    job["artifacts"]
        .as_array()
        .is_some_and(|a| a.iter().any(|a| a["kind"] == "checkpoint"))
}

pub fn succeeded_once(job: &Value) {
    assert_eq!(job["state"], "succeeded", "{job:#}");
    let attempts = job["attempts"].as_array().expect("attempts");
    assert_eq!(
        attempts
            .iter()
            .filter(|a| a["outcome"] == "succeeded")
            .count(),
        1
    );
    let adapters = job["artifacts"]
        .as_array()
        .expect("artifacts")
        .iter()
        .filter(|a| a["kind"] == "adapter")
        .count();
    assert_eq!(adapters, 1);
}

/// Steps in the order in which they were recorded.
pub fn steps(world: &World, id: u64) -> Vec<u64> {
    let metrics = world.ctl(&["metrics", &id.to_string(), "--json"]).json();
    metrics
        .iter()
        .filter(|m| m["loss"].is_f64())
        .filter_map(|m| m["step"].as_u64())
        .collect()
}

/// The numbers of the attempts of the job `id`, and those that its log names.
fn numbers(world: &World, id: u64) -> (Vec<u64>, BTreeSet<u64>) {
    let number = |of: &Value| of["attempt"].as_u64().expect("a number");
    let job = world.job(id);
    let attempts = job["attempts"].as_array().expect("attempts");
    let log = world.ctl(&["logs", &id.to_string(), "--json"]);
    assert_eq!(log.code, 0, "{}", log.stderr);
    (
        attempts.iter().map(number).collect(),
        log.json().iter().map(number).collect(),
    )
}

pub fn adapter(world: &World, id: u64) -> Vec<u8> {
    let folder = world.path(&format!("adapter-{id}"));
    let got = world.ctl(&[
        "artifacts",
        "get",
        &id.to_string(),
        "--output",
        &folder.to_string_lossy(),
    ]);
    assert_eq!(got.code, 0, "{}", got.stderr);
    fs::read(folder.join("adapter_model.safetensors")).expect("an adapter")
}

#[test]
fn a_killed_worker_is_followed_by_another_that_goes_on_and_ends_with_the_same_adapter() {
    let mut world = World::new(&["--lease", "3"]);
    let config = world.config(LONG);
    let (killed, whole) = (world.submit(&config, &[]), world.submit(&config, &[]));
    let mut first = world.worker("a", &[]);
    world.wait(killed, "a checkpoint", checkpointed);
    first.kill();
    let _second = world.worker("b", &[]);
    let job = world.ended(killed);
    succeeded_once(&job);
    assert_eq!(job["attempts"].as_array().map(Vec::len), Some(2));
    assert!(
        job["attempts"][0]["outcome"]
            .as_str()
            .expect("an outcome")
            .starts_with("lost"),
        "{job:#}"
    );
    assert_eq!(numbers(&world, killed), ([1, 2].into(), [1, 2].into()));
    let steps = steps(&world, killed);
    assert_eq!(steps.last(), Some(&400));
    let again = steps.windows(2).find(|w| w[1] <= w[0]);
    assert!(again.is_none_or(|w| w[1] > 10), "it began anew: {again:?}");
    // What ran before it does not count.
    world.ended(whole);
    assert_eq!(numbers(&world, whole), ([1].into(), [1].into()));
    let shown = world.ctl(&["show", &whole.to_string()]).stdout;
    assert!(shown.contains("1 on b: succeeded"), "{shown}");
    assert!(
        adapter(&world, killed) == adapter(&world, whole),
        "the resumed run differs from the uninterrupted one"
    );
}

#[test]
fn a_worker_that_is_started_again_takes_its_job_up_at_once() {
    let world = World::new(&["--lease", "3600"]);
    let config = world.config(LONG);
    let id = world.submit(&config, &[]);
    let state = world.path("same");
    let mut first = world.worker_in("a", &state, &[]);
    world.wait(id, "a checkpoint", checkpointed);
    first.kill();
    let _again = world.worker_in("a", &state, &[]);
    let job = world.ended(id);
    succeeded_once(&job);
    assert!(
        job["attempts"][0]["outcome"]
            .as_str()
            .expect("an outcome")
            .contains("restarted"),
        "{job:#}"
    );
}

#[test]
fn a_killed_coordinator_is_invisible_to_a_running_job() {
    let mut world = World::new(&[]);
    let worker = world.worker("a", &[]);
    let config = world.config(LONG);
    let id = world.submit(&config, &[]);
    world.wait(id, "a first step", |job| job["step"].as_u64() > Some(0));
    world.coordinator.kill();
    wait_until("the worker to notice", || {
        Some(()).filter(|()| worker.log().contains("away"))
    });
    world.restart_coordinator();
    let job = world.ended(id);
    succeeded_once(&job);
    assert_eq!(job["attempts"].as_array().map(Vec::len), Some(1), "{job:#}");
    assert_eq!(
        steps(&world, id),
        (1..=400).collect::<Vec<_>>(),
        "a step was lost or repeated"
    );
}

#[test]
fn a_stopped_worker_hands_its_job_back_saved() {
    let mut world = World::new(&[]);
    let mut worker = world.worker("a", &[]);
    let config = world.config("training: {max_steps: 400, checkpoint_every: 0, eval_rows: 2}");
    let id = world.submit(&config, &[]);
    world.wait(id, "a first step", |job| job["step"].as_u64() > Some(0));
    assert_eq!(worker.stop(), Some(0), "{}", worker.log());
    let job = world.job(id);
    assert_eq!(job["state"], "queued", "{job:#}");
    assert!(checkpointed(&job));
    let saved = job["artifacts"][0]["step"].as_u64().expect("a step");
    let told = format!("the worker is shutting down; saved step {saved}; the job will resume");
    assert_eq!(
        job["attempts"][0]["outcome"],
        format!("stopped: {told}"),
        "{job:#}"
    );
    let log = world.ctl(&["logs", &id.to_string(), "--json"]).json();
    let line = log
        .iter()
        .find(|line| line["text"] == told)
        .unwrap_or_else(|| panic!("{log:?}"));
    assert_eq!(line["level"], "info", "a stop is no error");
    let _other = world.worker("b", &[]);
    succeeded_once(&world.ended(id));
}

#[test]
fn a_worker_that_is_stopped_while_the_coordinator_is_away_hands_in_what_it_saved_at_its_next_start()
{
    let mut world = World::new(&["--lease", "10"]);
    let state = world.path("same");
    let mut worker = world.worker_in("a", &state, &[]);
    let config = world.config("training: {max_steps: 400, checkpoint_every: 0, eval_rows: 2}");
    let id = world.submit(&config, &[]);
    world.wait(id, "a first step", |job| job["step"].as_u64() > Some(0));
    world.coordinator.kill();
    assert_eq!(worker.stop(), Some(0), "{}", worker.log());
    let saved = fs::read_dir(state.join("jobs")).expect("a folder").count();
    assert_eq!(saved, 1, "what it saved is kept: {}", worker.log());
    let _again = world.worker_in("a", &state, &[]);
    world.restart_coordinator();
    let job = world.ended(id);
    succeeded_once(&job);
    let first = job["attempts"][0]["outcome"].as_str().expect("an outcome");
    assert!(first.starts_with("stopped"), "{job:#}");
    assert_eq!(
        steps(&world, id),
        (1..=400).collect::<Vec<_>>(),
        "a step was lost or repeated"
    );
}

/// Another coordinator, which knows of nothing, takes the place of the one of `world`; what the
/// first one has is kept as `name`.
fn replace_coordinator(world: &mut World, name: &str) {
    world.coordinator.kill();
    fs::rename(world.path("state"), world.path(name)).expect("a folder");
    world.restart_coordinator();
}

/// The coordinator whose state is kept as `name` is back in the place of the one that runs.
fn bring_back(world: &mut World, name: &str) {
    world.coordinator.kill();
    fs::rename(world.path("state"), world.path("another")).expect("a folder");
    fs::rename(world.path(name), world.path("state")).expect("a folder");
    world.restart_coordinator();
}

/// Folders of attempts in the state folder of a worker.
fn attempts_in(state: &std::path::Path) -> usize {
    fs::read_dir(state.join("jobs")).map_or(0, Iterator::count)
}

#[test]
fn what_a_worker_has_yet_to_hand_in_is_given_to_its_own_coordinator_and_to_no_other() {
    let mut world = World::new(&["--lease", "20"]);
    let state = world.path("same");
    let mut worker = world.worker_in("a", &state, &[]);
    let config = world.config("training: {max_steps: 400, checkpoint_every: 0, eval_rows: 2}");
    let id = world.submit(&config, &[]);
    world.wait(id, "a first step", |job| job["step"].as_u64() > Some(0));
    world.coordinator.kill();
    assert_eq!(worker.stop(), Some(0), "{}", worker.log());
    assert_eq!(attempts_in(&state), 1, "{}", worker.log());
    replace_coordinator(&mut world, "first");
    let again = world.worker_in("a", &state, &[]);
    // The other one counts alike: this is its job of the same number.
    let other = world.submit(
        &world.config("training: {max_steps: 3, checkpoint_every: 0, eval_rows: 2}"),
        &[],
    );
    assert_eq!(other, id);
    let job = world.ended(other);
    succeeded_once(&job);
    assert_eq!(
        (
            steps(&world, other),
            job["attempts"].as_array().map(Vec::len)
        ),
        (vec![1, 2, 3], Some(1)),
        "{job:#}"
    );
    assert_eq!(attempts_in(&state), 1, "what is the first one's is kept");
    assert!(
        again.log().contains("is kept for that one"),
        "{}",
        again.log()
    );
    bring_back(&mut world, "first");
    let job = world.ended(id);
    succeeded_once(&job);
    let first = job["attempts"][0]["outcome"].as_str().expect("an outcome");
    assert!(
        first.starts_with("stopped: the worker is shutting down; saved step "),
        "{job:#}"
    );
    assert_eq!(
        steps(&world, id),
        (1..=400).collect::<Vec<_>>(),
        "a step was lost or repeated"
    );
    wait_until("nothing left to hand in", || {
        (attempts_in(&state) == 0).then_some(())
    });
}

#[test]
fn a_running_attempt_ends_where_another_coordinator_answers_and_goes_on_with_its_own() {
    let mut world = World::new(&["--lease", "20"]);
    let state = world.path("same");
    let worker = world.worker_in("a", &state, &[]);
    let id = world.submit(&world.config(&LONG.replace("400", "2000")), &[]);
    world.wait(id, "a checkpoint", checkpointed);
    let child = child_of(worker.pid()).expect("a training process");
    replace_coordinator(&mut world, "first");
    let other = world.submit(
        &world.config("training: {max_steps: 3, checkpoint_every: 0, eval_rows: 2}"),
        &[],
    );
    let job = world.ended(other);
    assert!(!is_alive(child), "two attempts of one worker train at once");
    succeeded_once(&job);
    assert_eq!(steps(&world, other), [1, 2, 3], "{job:#}");
    assert!(
        worker.log().contains("answers in the place of"),
        "{}",
        worker.log()
    );
    bring_back(&mut world, "first");
    let job = world.wait(id, "a second attempt", |job| {
        job["attempts"].as_array().map(Vec::len) == Some(2) && job["step"].as_u64() > Some(10)
    });
    let first = job["attempts"][0]["outcome"].as_str().expect("an outcome");
    assert!(
        first.starts_with("lost: ") && first.contains("in the place of"),
        "{job:#}"
    );
    let steps = steps(&world, id);
    let again = steps.windows(2).find(|w| w[1] <= w[0]);
    assert!(again.is_none_or(|w| w[1] > 10), "it began anew: {again:?}");
    assert_eq!(world.ctl(&["cancel", &id.to_string(), "--yes"]).code, 0);
}

#[test]
fn a_failed_job_shows_the_code_of_its_failure_everywhere_and_after_a_restart() {
    let mut world = World::new(&[]);
    let config = world.config("training: {max_steps: 2}\nresources: {max_retries: 0}");
    let emptied = world.path("emptied");
    fs::create_dir_all(&emptied).expect("a folder");
    for entry in fs::read_dir(world.path("tiny"))
        .expect("the model")
        .map(|entry| entry.expect("an entry"))
    {
        fs::copy(entry.path(), emptied.join(entry.file_name())).expect("a copy");
    }
    let base = |path: &str| format!("model.base={path}");
    let set = (base(&emptied.to_string_lossy()), base("/nowhere/at/all"));
    let broken = [
        (world.submit(&config, &["--set", &set.0]), "Q0511"),
        (world.submit(&config, &["--set", &set.1]), "Q0302"),
    ];
    // What submit has seen whole is not whole any more when a worker opens it.
    fs::remove_file(emptied.join("model.safetensors")).expect("weights");
    let worker = world.worker("a", &[]);
    let submit = |set: &str| world.submit(&config, &["--set", set]);
    let good = submit("training.seed=2");
    assert_eq!(world.ended(good)["reason_code"], Value::Null);
    let killed = submit("training.max_steps=100000");
    world.wait(killed, "a first step", |job| job["step"].as_u64() > Some(0));
    let child = child_of(worker.pid()).expect("a training process");
    signal(child, Signal::KILL);
    // Nothing tells more of it than that it failed.
    let all = [broken[0], broken[1], (killed, "Q0501")];
    let shows_all = |world: &World| {
        for (id, code) in all {
            let job = world.ended(id);
            assert_eq!(
                (&job["state"], &job["reason_code"]),
                (&"failed".into(), &code.into()),
                "{job:#}"
            );
            let shown = world.ctl(&["show", &id.to_string()]).stdout;
            assert!(
                shown
                    .lines()
                    .any(|line| line.contains("error code") && line.ends_with(code)),
                "{shown}"
            );
            let bearer = format!("Bearer {}", world.token());
            let headers = [("Host", world.address.as_str()), ("Authorization", &bearer)];
            let page = http(&world.address, "GET", &format!("/j/{id}"), &headers, &[]);
            assert!(
                String::from_utf8_lossy(&page.body).contains(&format!("qlora-ctl explain {code}"))
            );
        }
    };
    shows_all(&world);
    world.coordinator.kill();
    world.restart_coordinator();
    shows_all(&world);
}

#[test]
fn a_training_process_that_dies_is_tried_again_and_its_orphan_never_trains_on() {
    let mut world = World::new(&[]);
    let worker = world.worker("a", &[]);
    let config = world.config(LONG);
    let id = world.submit(&config, &[]);
    world.wait(id, "a checkpoint", checkpointed);
    let child = wait_until("the training process", || child_of(worker.pid()));
    signal(child, Signal::KILL);
    let job = world.ended(id);
    succeeded_once(&job);
    assert!(
        job["attempts"][0]["outcome"]
            .as_str()
            .expect("an outcome")
            .starts_with("failed"),
        "{job:#}"
    );
}

#[test]
fn a_training_process_that_hangs_is_replaced_and_goes_on_from_its_checkpoint() {
    let mut world = World::new(&[]);
    let worker = world.worker("a", &["--patience", "10"]);
    let config = world.config(LONG);
    let id = world.submit(&config, &[]);
    world.wait(id, "a checkpoint", checkpointed);
    let child = wait_until("the training process", || child_of(worker.pid()));
    signal(child, Signal::STOP);
    let job = world.ended(id);
    succeeded_once(&job);
    let outcome = job["attempts"][0]["outcome"].as_str().expect("an outcome");
    assert!(
        outcome.starts_with("failed") && outcome.contains("said nothing for 10 s"),
        "{job:#}"
    );
}

#[test]
fn what_is_reported_while_the_coordinator_is_away_survives_the_kill_of_both() {
    let mut world = World::new(&["--lease", "120"]);
    let state = world.path("same");
    let mut worker = world.worker_in("a", &state, &[]);
    let id = world.submit(&world.config(&LONG.replace("400", "100000")), &[]);
    world.wait(id, "a checkpoint", checkpointed);
    world.coordinator.kill();
    let record = || {
        let mut folders = fs::read_dir(state.join("jobs")).ok()?;
        let folder = folders.find_map(Result::ok)?.path();
        folder.join("handover.json").exists().then_some(())
    };
    wait_until("what is left to hand in", record);
    worker.kill();
    world.restart_coordinator();
    let known = world.job(id)["step"].as_u64();
    let _again = world.worker_in("a", &state, &[]);
    let job = world.wait(id, "a second attempt", |job| {
        job["attempts"].as_array().map(Vec::len) == Some(2)
    });
    let first = job["attempts"][0]["outcome"].as_str().expect("an outcome");
    assert!(
        first.starts_with("lost: the worker ended while the coordinator was away"),
        "{job:#}"
    );
    let told = steps(&world, id).into_iter().max();
    assert!(told > known, "{told:?} {known:?}");
}

#[test]
fn a_training_process_that_stands_still_is_not_waited_for_when_it_is_to_stop() {
    let mut world = World::new(&[]);
    let mut worker = world.worker("a", &[]);
    let config = world.config(&LONG.replace("400", "100000"));
    let standing_still = |world: &World, pid: u32| {
        let id = world.submit(&config, &[]);
        world.wait(id, "a checkpoint", checkpointed);
        let child = wait_until("the training process", || child_of(pid));
        signal(child, Signal::STOP);
        id
    };
    // What the worker says when it does not wait for as long as for one that answers.
    let silent = "said nothing for 10 s";
    let id = standing_still(&world, worker.pid());
    assert_eq!(world.ctl(&["cancel", &id.to_string(), "--yes"]).code, 0);
    assert_eq!(world.ended(id)["state"], "cancelled");
    let log = world.ctl(&["logs", &id.to_string()]).stdout;
    assert!(log.contains(silent), "{log}");

    let told = |log: &str| log.matches(silent).count();
    let before = told(&worker.log());
    let id = standing_still(&world, worker.pid());
    assert_eq!(worker.stop(), Some(0), "{}", worker.log());
    assert!(told(&worker.log()) > before, "{}", worker.log());
    let job = world.job(id);
    assert!(checkpointed(&job) && job["state"] == "queued", "{job:#}");
}

#[test]
fn a_training_process_ends_with_its_agent() {
    let mut world = World::new(&[]);
    let mut worker = world.worker("a", &[]);
    let config = world.config("training: {max_steps: 100000}");
    let id = world.submit(&config, &[]);
    world.wait(id, "a first step", |job| job["step"].as_u64() > Some(0));
    let child = child_of(worker.pid()).expect("a training process");
    worker.kill();
    wait_until("the end of the orphan", || {
        Some(()).filter(|()| !is_alive(child))
    });
}

/// Sends a signal to the process `pid`.
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid as i32).expect("a process id");
    rustix::process::kill_process(pid, signal).expect("a signal");
}

/// A process whose parent is `pid`.
pub fn child_of(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    let direct = text.split_whitespace().next().and_then(|t| t.parse().ok());
    direct.or_else(|| {
        let entries = fs::read_dir("/proc").ok()?;
        entries
            .filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok())
            .find(|&p| parent(p) == Some(pid))
    })
}

fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status
        .lines()
        .find_map(|l| l.strip_prefix("PPid:")?.trim().parse().ok())
}

/// Whether the process `pid` is there and has not ended.
pub fn is_alive(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .any(|l| l.starts_with("State:") && !l.contains('Z'))
}

#[test]
fn an_evaluation_whose_worker_is_killed_is_made_by_another_and_a_cancelled_one_stops() {
    let mut world = World::new(&["--lease", "3"]);
    let config = world.config("training: {max_steps: 2}");
    let trained = world.submit(&config, &[]);
    let mut first = world.worker("a", &[]);
    world.ended(trained);
    let rows = world.path("many.jsonl");
    fs::write(&rows, conversations(60)).expect("rows");
    let (id, rows) = (trained.to_string(), rows.to_string_lossy());
    let evaluate = || world.ctl(&["eval", &id, "--data", &rows, "--json"]);
    let runs = |id: u64| {
        let at_work =
            |job: &Value| job["phase"] == "evaluating" && job["phase_done"].as_u64() > Some(0);
        wait_until("an evaluation", || {
            let shown = world.ctl(&["show", &id.to_string(), "--json"]);
            shown.json().pop().filter(at_work)
        });
    };
    std::thread::scope(|scope| {
        let asked = scope.spawn(evaluate);
        runs(trained + 1);
        first.kill();
        let _second = world.worker_in("b", &world.path("worker-b"), &[]);
        let answer = asked.join().expect("an answer");
        assert_eq!(answer.code, 0, "{}", answer.stderr);
        let job = world.job(trained + 1);
        assert_eq!(job["scores"]["rows"], Value::from(60), "{job:#}");
        let attempts = job["attempts"].as_array().expect("attempts");
        // On a busy machine so short a lease may be lost more than once.
        let [lost, .., done] = attempts.as_slice() else {
            panic!("one worker has done it: {job:#}");
        };
        assert_eq!(
            (&lost["worker"], &done["worker"]),
            (&Value::from("a"), &Value::from("b"))
        );

        let asked = scope.spawn(evaluate);
        runs(trained + 2);
        assert_eq!(
            world
                .ctl(&["cancel", &(trained + 2).to_string(), "--yes"])
                .code,
            0
        );
        assert_eq!(asked.join().expect("an answer").code, 7);
    });
}
