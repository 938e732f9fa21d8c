//! Two coordinators on one PostgreSQL database: the standby takes the place of a leader that dies,
//! and a server that stops and comes back costs nothing.

use std::time::Instant;

use qlora_tests::{Postgres, World, try_http, wait_until};

use crate::faults::{adapter, steps, succeeded_once};

/// Long enough to be interrupted.
const LONG: &str = "training: {max_steps: 400, checkpoint_every: 10, eval_rows: 2}";

/// What the coordinator at `address` says of its health; 0 where it says nothing, as one whose
/// connections end because it begins to lead.
fn health(address: &str) -> u16 {
    try_http(address, "GET", "/healthz", &[], b"").map_or(0, |answer| answer.status)
}

#[test]
fn a_killed_leader_is_followed_by_its_standby_and_training_goes_on() {
    let server = Postgres::start();
    let mut world = World::new(&["--database", &server.database("jobs")]);
    let leader = world.address.clone();
    let (standby, other) = world.another_coordinator("standby");
    assert_eq!((health(&leader), health(&other)), (200, 503));
    let refusal = world.ctl(&["--coordinator", &other, "jobs"]);
    assert!(
        refusal.code != 0 && refusal.stderr.contains(&leader),
        "it does not say who leads: {}",
        refusal.stderr
    );
    // The leader comes last: whoever calls has to find it.
    world.address = format!("{other},{leader}");
    let worker = world.worker("a", &[]);
    let config = world.config(LONG);
    let id = world.submit(&config, &[]);
    let whole = world.submit(&config, &[]);
    world.wait(id, "a first step", |job| job["step"].as_u64() > Some(0));
    let killed = Instant::now();
    world.coordinator.kill();
    wait_until("the standby to lead", || {
        Some(()).filter(|()| health(&other) == 200)
    });
    eprintln!("the standby leads {:?} after the kill", killed.elapsed());
    let job = world.ended(id);
    succeeded_once(&job);
    assert_eq!(job["attempts"].as_array().map(Vec::len), Some(1), "{job:#}");
    assert_eq!(
        steps(&world, id),
        (1..=400).collect::<Vec<_>>(),
        "a step was lost or repeated; {}",
        worker.log()
    );
    succeeded_once(&world.ended(whole));
    assert!(
        adapter(&world, id) == adapter(&world, whole),
        "the run that saw two leaders differs from the undisturbed one"
    );
    assert!(standby.log().contains("leads from now on"));
}

#[test]
fn a_database_that_stops_and_comes_back_loses_nothing_and_stops_no_training() {
    let server = Postgres::start();
    let mut world = World::new(&["--database", &server.database("jobs")]);
    let _worker = world.worker("a", &[]);
    let config = world.config(LONG);
    let id = world.submit(&config, &[]);
    world.wait(id, "a first step", |job| job["step"].as_u64() > Some(0));
    let waiting = world.submit(&config, &[]);
    server.stop();
    assert_eq!(world.coordinator.exit_code(), Some(6));
    assert!(world.coordinator.log().contains("Q0422"));
    // As a supervisor does; the server is away still.
    world.restart_coordinator();
    assert_eq!(health(&world.address), 503);
    server.restart();
    wait_until("the coordinator to lead again", || {
        Some(()).filter(|()| health(&world.address) == 200)
    });
    let job = world.ended(id);
    succeeded_once(&job);
    assert_eq!(job["attempts"].as_array().map(Vec::len), Some(1), "{job:#}");
    assert_eq!(
        steps(&world, id),
        (1..=400).collect::<Vec<_>>(),
        "a step was lost or repeated"
    );
    succeeded_once(&world.ended(waiting));
}
