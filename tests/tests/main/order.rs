//! Which job is next: limits of users, jobs that come after others, and a queue that is drained, by
//! the real programs.

use qlora_tests::World;
use serde_json::json;

use crate::page::http;

const SHORT: &str = "training: {max_steps: 6, checkpoint_every: 2, micro_batch_size: 2}";

fn ok(world: &World, args: &[&str]) -> String {
    let answer = world.ctl(args);
    assert_eq!(answer.code, 0, "{args:?}: {}", answer.stderr);
    answer.stdout + &answer.stderr
}

#[test]
fn a_job_waits_for_the_one_before_it_and_one_more_than_may_wait_is_refused() {
    let world = World::new(&["--max-queued-per-user", "2"]);
    let config = world.config(SHORT);
    let first = world.submit(&config, &[]);
    let second = world.submit(&config, &["--after", &first.to_string()]);
    let job = world.job(second);
    assert_eq!(
        (&job["owner"], &job["after"], &job["waits_for"]),
        (&json!("local"), &json!([first]), &json!([first]))
    );
    let explained = ok(&world, &["explain", &second.to_string()]);
    let wanted = format!("until job {first} has succeeded");
    assert!(explained.contains(&wanted), "{explained}");
    let refused = world.ctl(&["submit", &config.to_string_lossy()]);
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("local has 2 waiting jobs")
            && refused.stderr.contains("--max-queued-per-user"),
        "{}",
        refused.stderr
    );
    ok(&world, &["cancel", &first.to_string(), "--yes"]);
    let job = world.ended(second);
    let why = format!("job {first}, which it comes after, was cancelled");
    assert_eq!(
        (&job["state"], &job["reason"]),
        (&json!("cancelled"), &json!(why))
    );
    let path = config.to_string_lossy();
    let late = world.ctl(&["submit", &path, "--after", &first.to_string()]);
    assert_eq!(late.code, 5, "{}", late.stderr);
    assert!(late.stderr.contains("--after-any"), "{}", late.stderr);
}

#[test]
fn no_job_starts_while_the_queue_is_drained() {
    let mut world = World::new(&[]);
    let _worker = world.worker("a", &[]);
    ok(
        &world,
        &["drain", "--queue", "--reason", "upgrade\nb   idle"],
    );
    let config = world.config(SHORT);
    let id = world.submit(&config, &[]);
    world.coordinator.kill();
    world.restart_coordinator();
    assert_eq!(world.job(id)["state"], "queued");
    let explained = ok(&world, &["explain", &id.to_string()]);
    assert!(
        explained.contains("the queue was drained") && explained.contains("ago: upgrade"),
        "{explained}"
    );
    let listed = ok(&world, &["workers"]);
    let is_told =
        |line: &str| line.contains("the queue is drained") && line.contains("upgrade b   idle");
    assert!(listed.lines().any(is_told), "{listed}");
    let (_, _, page) = http(&world, "GET", "/", &[]);
    let page = String::from_utf8_lossy(&page).into_owned();
    assert!(page.contains("No job starts"), "{page}");
    ok(&world, &["undrain", "--queue"]);
    assert_eq!(world.ended(id)["state"], "succeeded");
}
