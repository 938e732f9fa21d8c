//! A hub that stands still in the middle of a model: the worker hears all else meanwhile.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use qlora_tests::{Hub, Program, World, wait_until};
use serde_json::Value;

use crate::faults::succeeded_once;

const SHORT: &str = "training: {max_steps: 2}";
const WEIGHTS: &str = "model.safetensors";
/// Bytes after which the hub stands still: within the weights; all else is smaller.
const STILL_AFTER: usize = 100_000;

fn worker_of(world: &mut World, name: &str, hub: &Hub, models: &Path) -> Program {
    let models = models.to_string_lossy();
    let env = [
        ("HF_ENDPOINT", hub.url.as_str()),
        ("QLORA_MODEL_DIR", &models),
    ];
    world.worker_with(name, &env)
}

/// Submits a job with a model of the hub, and waits until the hub stands still.
fn fetching(world: &World, hub: &Hub) -> u64 {
    let id = world.submit(&world.config(SHORT), &["--set", "model.base=own/tiny"]);
    wait_until("a hub that stands still", || {
        hub.stands_still().then_some(())
    });
    let phase = |job: &Value| job["phase"] == "fetching own/tiny";
    world.wait(id, "its phase", phase);
    id
}

#[test]
fn a_worker_that_is_told_to_stop_while_it_fetches_leaves_and_the_next_goes_on_where_it_was() {
    let mut world = World::new(&[]);
    let hub = Hub::of(&world.path("tiny"));
    hub.stand_still_after(STILL_AFTER);
    let models = world.path("models");
    let mut first = worker_of(&mut world, "a", &hub, &models);
    let id = fetching(&world, &hub);
    let begun = Instant::now();
    assert_eq!(first.stop(), Some(0), "{}", first.log());
    // A hub that is silent is waited for longer than this.
    assert!(begun.elapsed() < Duration::from_secs(20), "{}", first.log());
    let job = world.job(id);
    assert_eq!(job["state"], "queued", "{job:#}");
    let outcome = job["attempts"][0]["outcome"].as_str().expect("an outcome");
    assert!(
        outcome.starts_with("stopped: the worker is shutting down"),
        "{outcome}"
    );
    let begun = models.join(format!("own--tiny/{WEIGHTS}.partial"));
    let have = fs::metadata(begun).expect("a file that was begun").len() as usize;
    hub.go_on();
    let _second = worker_of(&mut world, "b", &hub, &models);
    succeeded_once(&world.ended(id));
    assert_eq!(hub.asked(WEIGHTS), [0, have], "the file was begun anew");
}

#[test]
fn a_hub_that_says_nothing_costs_no_lease_and_a_job_that_waits_for_it_is_let_go() {
    let mut world = World::new(&["--lease", "5"]);
    let hub = Hub::of(&world.path("tiny"));
    // Not even the list of files comes.
    hub.stand_still_after(0);
    let models = world.path("models");
    let worker = worker_of(&mut world, "a", &hub, &models);
    let id = world.submit(&world.config(SHORT), &["--set", "model.base=own/tiny"]);
    wait_until("a hub that stands still", || {
        hub.stands_still().then_some(())
    });
    // Longer than two leases.
    std::thread::sleep(Duration::from_secs(11));
    let job = world.job(id);
    assert_eq!(
        (&job["state"], job["attempts"].as_array().map(Vec::len)),
        (&"running".into(), Some(1)),
        "{job:#}"
    );
    assert_eq!(world.ctl(&["cancel", &id.to_string(), "--yes"]).code, 0);
    assert_eq!(world.ended(id)["state"], "cancelled");
    // Another one is trained at once, though nobody has told the hub.
    let other = world.submit(&world.config(SHORT), &[]);
    succeeded_once(&world.ended(other));
    assert!(hub.stands_still(), "the hub has answered meanwhile");
    hub.go_on();
    let again = world.submit(&world.config(SHORT), &["--set", "model.base=own/tiny"]);
    succeeded_once(&world.ended(again));
    assert_eq!(hub.asked(WEIGHTS).len(), 1, "{}", worker.log());
}
