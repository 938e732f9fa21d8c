//! A wall clock that jumps by an hour while the programs run: leases and waits do not see it, and
//! what a person reads by it does.
#![cfg(target_os = "linux")]

use qlora_tests::{Wall, World};
use serde_json::Value;

use crate::faults::{child_of, is_alive, steps};

const ENDLESS: &str =
    "training: {max_steps: 1000000, gradient_accumulation: 8, checkpoint_every: 10, eval_rows: 2}";
const HOUR: i64 = 3600;

/// Waits until the job has come ten steps further.
fn goes_on(world: &World, id: u64) -> Value {
    let from = world.job(id)["step"].as_u64().unwrap_or_default();
    let further = |job: &Value| job["step"].as_u64() > Some(from + 10);
    world.wait(id, "further steps", further)
}

#[test]
fn a_wall_clock_that_jumps_leaves_leases_alone_wherever_it_is() {
    let (here, there) = (Wall::new(), Wall::new());
    let own = here.env();
    let own: Vec<(&str, &str)> = own.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let mut world = World::with_env(&["--lease", "5"], &own);
    let other = there.env();
    let other: Vec<(&str, &str)> = other.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let worker = world.worker_with("a", &other);
    let id = world.submit(&world.config(ENDLESS), &[]);
    let stepped = |job: &Value| job["step"].as_u64() > Some(0);
    world.wait(id, "a first step", stepped);
    let training = child_of(worker.pid()).expect("a training process");
    for (wall, ahead) in [
        (&here, HOUR),
        (&here, -HOUR),
        (&there, HOUR),
        (&there, -HOUR),
    ] {
        wall.set_ahead(ahead);
        // Longer than a lease: one that is judged by this clock would be over, or never.
        std::thread::sleep(std::time::Duration::from_secs(6));
        let job = goes_on(&world, id);
        let attempts = job["attempts"].as_array().map(Vec::len);
        assert_eq!(attempts, Some(1), "{ahead}: {job:#}");
        assert!(is_alive(training), "{ahead}: {}", worker.log());
        wall.set_ahead(0);
    }
    let steps = steps(&world, id);
    assert!(
        steps.windows(2).all(|two| two[1] == two[0] + 1),
        "{steps:?}"
    );
    // And a worker that is gone is still found to be, by the other clock.
    here.set_ahead(-HOUR);
    drop(worker);
    let _second = world.worker("b", &[]);
    let by_second = |job: &Value| job["worker"] == "b" && job["attempts"][1].is_object();
    world.wait(id, "a second attempt", by_second);
}

#[test]
fn a_token_ends_by_the_wall_clock() {
    let wall = Wall::new();
    let env = wall.env();
    let env: Vec<(&str, &str)> = env.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let world = World::with_env(&[], &env);
    let made = world.ctl(&[
        "token",
        "create",
        "--role",
        "viewer",
        "--expires",
        "30m",
        "--json",
    ]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    let made = made.json().remove(0);
    let secret = made["token"].as_str().expect("a token");
    let jobs = || world.ctl_with(&["jobs"], &[("QLORA_TOKEN", secret)]);
    assert_eq!(jobs().code, 0, "{}", jobs().stderr);
    wall.set_ahead(HOUR);
    let refused = jobs();
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(refused.stderr.contains("has expired"), "{}", refused.stderr);
    // Who sets the clock right has the token again: it was not revoked.
    wall.set_ahead(0);
    assert_eq!(jobs().code, 0, "{}", jobs().stderr);
}
