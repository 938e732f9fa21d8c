//! Jobs that train on several workers: real programs, one coordinator between them.

use qlora_tests::{Program, World, device, wait_until};
use rustix::process::Signal;
use serde_json::Value;

use crate::faults::{adapter, checkpointed, child_of, signal, steps, succeeded_once};

const FOR_TWO: &str =
    "training: {max_steps: 60, checkpoint_every: 10, gradient_accumulation: 4, eval_rows: 5}
resources: {workers: 2}";
const FOR_ONE: &str =
    "training: {max_steps: 60, checkpoint_every: 10, gradient_accumulation: 4, eval_rows: 5}";

fn two(world: &mut World, args: &[&str]) -> [Program; 2] {
    ["a", "b"].map(|name| world.worker(name, args))
}

fn losses(world: &World, id: u64) -> Vec<(u64, f64, f64)> {
    let metrics = world.ctl(&["metrics", &id.to_string(), "--json"]).json();
    let number = |m: &Value, name: &str| m[name].as_f64();
    metrics
        .iter()
        .filter_map(|m| {
            Some((
                m["step"].as_u64()?,
                number(m, "loss")?,
                number(m, "grad_norm")?,
            ))
        })
        .collect()
}

#[test]
fn two_workers_train_one_job_to_the_adapter_and_the_losses_of_one() {
    let mut world = World::new(&[]);
    // An emulated GPU takes seconds for a step.
    let steps_of_all = if device() == "cpu" { "60" } else { "3" };
    let config = |world: &World, text: &str| world.config(&text.replace("60", steps_of_all));
    let together = world.submit(&config(&world, FOR_TWO), &[]);
    let _workers = two(&mut world, &[]);
    let job = world.ended(together);
    succeeded_once(&job);
    let attempt = &job["attempts"][0];
    let mut names = [attempt["worker"].as_str(), attempt["others"][0].as_str()];
    names.sort();
    assert_eq!(names, [Some("a"), Some("b")], "{job:#}");
    let alone = world.submit(&config(&world, FOR_ONE), &[]);
    succeeded_once(&world.ended(alone));
    let told = steps(&world, together)
        .iter()
        .map(u64::to_string)
        .collect::<Vec<_>>();
    assert_eq!(told.last().map(String::as_str), Some(steps_of_all));
    assert_eq!(
        told.len().to_string(),
        steps_of_all,
        "every step is told of once"
    );
    assert_eq!(losses(&world, together), losses(&world, alone));
    let way = if device() == "cuda" {
        "added up by NCCL"
    } else {
        "added up over TCP"
    };
    let log = world.ctl(&["logs", &together.to_string()]).stdout;
    assert!(log.contains(way), "{log}");
    assert!(
        adapter(&world, together) == adapter(&world, alone),
        "two workers end with another adapter"
    );
}

#[test]
fn one_of_two_that_dies_leaves_the_job_to_those_who_are_there_and_nothing_is_lost() {
    let mut world = World::new(&["--lease", "3"]);
    let long = FOR_TWO.replace("60", "400");
    let id = world.submit(&world.config(&long), &[]);
    let [mut a, mut b] = two(&mut world, &[]);
    let job = world.wait(id, "a checkpoint", checkpointed);
    // The one that saves nothing is killed with its agent; then, of another attempt, the first
    // one's training process.
    let first_is_a = job["attempts"][0]["worker"] == "a";
    let killed = if first_is_a { &mut b } else { &mut a };
    killed.kill();
    let _c = world.worker("c", &[]);
    let job = world.wait(id, "a second attempt", |job| {
        job["attempts"].as_array().is_some_and(|all| all.len() == 2)
            && job["step"].as_u64() > Some(0)
    });
    assert!(
        job["attempts"][0]["outcome"]
            .as_str()
            .expect("an outcome")
            .starts_with("lost"),
        "{job:#}"
    );
    let first = if first_is_a { &a } else { &b };
    if let Some(child) = child_of(first.pid()) {
        signal(child, Signal::KILL);
    }
    let job = world.ended(id);
    succeeded_once(&job);
    let steps = steps(&world, id);
    assert_eq!(steps.last(), Some(&400));
    assert!(
        steps
            .windows(2)
            .all(|w| w[1] == w[0] + 1 || w[1] > 10 && w[1] <= w[0]),
        "it began anew: {steps:?}"
    );
    let alone = world.submit(&world.config(&FOR_ONE.replace("60", "400")), &[]);
    world.ended(alone);
    assert!(
        adapter(&world, id) == adapter(&world, alone),
        "the resumed run differs from the uninterrupted one"
    );
}

#[test]
fn a_worker_of_two_that_is_stopped_saves_the_job_of_both() {
    let mut world = World::new(&[]);
    let pair = world.config(
        &FOR_TWO
            .replace("60", "400")
            .replace("checkpoint_every: 10", "checkpoint_every: 0"),
    );
    let id = world.submit(&pair, &[]);
    let [mut a, mut b] = two(&mut world, &[]);
    let job = world.wait(id, "a first step", |job| job["step"].as_u64() > Some(0));
    let other = if job["attempts"][0]["worker"] == "a" {
        &mut b
    } else {
        &mut a
    };
    assert_eq!(other.stop(), Some(0), "{}", other.log());
    let job = world.wait(id, "the job in the queue", |job| job["state"] == "queued");
    assert!(checkpointed(&job), "{job:#}");
    assert!(
        job["attempts"][0]["outcome"]
            .as_str()
            .expect("an outcome")
            .starts_with("stopped"),
        "{job:#}"
    );
    let why = world.ctl(&["explain", &id.to_string()]);
    assert!(
        why.stdout.contains("2 workers of one kind"),
        "{}",
        why.stdout
    );
    assert_eq!(world.ctl(&["cancel", &id.to_string(), "--yes"]).code, 0);
}

#[test]
fn a_job_for_two_is_cancelled_on_both_and_both_take_the_next() {
    let mut world = World::new(&[]);
    let pair = world.config(&FOR_TWO.replace("60", "100000"));
    let id = world.submit(&pair, &[]);
    let workers = two(&mut world, &[]);
    world.wait(id, "a first step", |job| job["step"].as_u64() > Some(0));
    assert_eq!(world.ctl(&["cancel", &id.to_string(), "--yes"]).code, 0);
    assert_eq!(world.ended(id)["state"], "cancelled");
    wait_until("both processes to end", || {
        workers
            .iter()
            .all(|w| child_of(w.pid()).is_none())
            .then_some(())
    });
    let next = world.submit(&world.config(&FOR_TWO.replace("60", "2")), &[]);
    succeeded_once(&world.ended(next));
}

#[test]
fn a_killed_coordinator_is_invisible_to_two_workers() {
    let mut world = World::new(&[]);
    let id = world.submit(&world.config(&FOR_TWO.replace("60", "300")), &[]);
    let workers = two(&mut world, &[]);
    world.wait(id, "a first step", |job| job["step"].as_u64() > Some(0));
    world.coordinator.kill();
    for worker in &workers {
        wait_until("a worker to notice", || {
            worker.log().contains("away").then_some(())
        });
    }
    world.restart_coordinator();
    let job = world.ended(id);
    succeeded_once(&job);
    assert_eq!(job["attempts"].as_array().map(Vec::len), Some(1), "{job:#}");
    assert_eq!(
        steps(&world, id),
        (1..=300).collect::<Vec<_>>(),
        "a step was lost or repeated"
    );
}

#[test]
fn when_the_first_of_two_is_gone_the_other_stops_and_takes_the_job_up_with_a_third() {
    let mut world = World::new(&["--lease", "3"]);
    let id = world.submit(&world.config(&FOR_TWO.replace("60", "300")), &[]);
    let [mut a, mut b] = two(&mut world, &[]);
    let job = world.wait(id, "a checkpoint", checkpointed);
    let first_is_a = job["attempts"][0]["worker"] == "a";
    let (first, other) = if first_is_a {
        (&mut a, &b)
    } else {
        (&mut b, &a)
    };
    first.kill();
    wait_until("the other process to end", || {
        child_of(other.pid()).is_none().then_some(())
    });
    let _third = world.worker("c", &[]);
    let job = world.ended(id);
    succeeded_once(&job);
    assert_eq!(job["attempts"].as_array().map(Vec::len), Some(2), "{job:#}");
}

#[test]
fn two_workers_that_are_stopped_while_the_coordinator_is_away_hand_in_their_attempt_together() {
    let mut world = World::new(&["--lease", "20"]);
    let pair = world.config(
        &FOR_TWO
            .replace("60", "400")
            .replace("checkpoint_every: 10", "checkpoint_every: 0"),
    );
    let id = world.submit(&pair, &[]);
    let states = ["a", "b"].map(|name| (name, world.path(&format!("state-{name}"))));
    let start = |world: &World| {
        states
            .each_ref()
            .map(|(name, state)| world.worker_in(name, state, &[]))
    };
    let mut workers = start(&world);
    world.wait(id, "a first step", |job| job["step"].as_u64() > Some(0));
    world.coordinator.kill();
    for worker in &mut workers {
        assert_eq!(worker.stop(), Some(0), "{}", worker.log());
    }
    for (name, state) in &states {
        let left = std::fs::read_dir(state.join("jobs"))
            .expect("a folder")
            .count();
        assert_eq!(left, 1, "what {name} left is kept");
    }
    let _again = start(&world);
    world.restart_coordinator();
    let job = world.ended(id);
    succeeded_once(&job);
    let attempts = job["attempts"].as_array().expect("attempts");
    let first = attempts[0]["outcome"].as_str().expect("an outcome");
    assert!(
        attempts.len() == 2 && first.starts_with("stopped"),
        "{job:#}"
    );
    assert_eq!(
        steps(&world, id),
        (1..=400).collect::<Vec<_>>(),
        "a step was lost or repeated"
    );
}
