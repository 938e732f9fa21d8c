//! Jobs of a greater priority start first.

use qlora_engine::*;

use crate::world::*;

fn prior(name: &str, priority: i32) -> Box<JobSpec> {
    Box::new(JobSpec {
        priority,
        ..*spec(name)
    })
}

#[test]
fn jobs_start_by_priority_and_then_in_the_order_of_their_submission() {
    let mut world = World::new();
    let submitted = [0, 5, -3, 5, 0].map(|priority| world.submit(prior("x", priority)));
    let [plain, first, last, second, also_plain] = submitted;
    assert_eq!(world.engine.queued_before(last), 4);
    assert_eq!(world.engine.queued_before(first), 0);
    let session = world.register("a", "1");
    for expected in [first, second, plain, also_plain, last] {
        let (started, token) = world.start(session);
        assert_eq!(started, expected);
        world.finish(token, Outcome::Succeeded);
    }
}

#[test]
fn a_job_that_is_tried_again_or_taken_over_by_a_restart_keeps_its_place() {
    let (mut world, running) = World::running(prior("x", 1));
    let other = world.submit(prior("y", 0));
    world.finish(running.token, Outcome::Stopped);
    assert_eq!(world.engine.queued_before(other), 1);
    world.restart();
    assert_eq!(world.engine.queued_before(other), 1);
    let session = world.register("a", "1");
    assert_eq!(world.start(session).0, running.job);
}
