//! What a restart of the coordinator costs a job: nothing.

use qlora_engine::*;

use crate::world::*;

/// How a worker that was away with the coordinator tells that it has lost its attempt.
#[derive(Debug, Clone, Copy)]
enum Told {
    /// It was restarted, or has ended the attempt with its lease and forgotten it.
    ComesWithoutIt,
    /// It has ended the attempt with its lease, and says so.
    SaysSo,
    /// It never comes back.
    Nothing,
}

const WAYS: [Told; 3] = [Told::ComesWithoutIt, Told::SaysSo, Told::Nothing];

/// The coordinator is away for longer than a lease, and the worker `name` loses the attempt
/// meanwhile.
fn lose_by_restart(world: &mut World, name: &str, token: Token, told: Told) {
    world.now = Now::both(world.now.steady.0 + 3 * LEASE);
    world.restart();
    match told {
        Told::ComesWithoutIt => drop(world.register(name, "1")),
        Told::SaysSo => {
            let session = world.register_with(name, "1", Some(token));
            assert_eq!(
                world.sync(session, Some(token)),
                Response::Wanted(Wanted::GoOn)
            );
            let message = "the lease could not be renewed in time".into();
            world.handle(Event::Finish {
                session,
                token,
                outcome: Outcome::Lost,
                message,
                code: String::new(),
            });
        }
        Told::Nothing => drop(world.pass(LEASE)),
    }
}

#[test]
fn restarts_use_up_neither_attempts_nor_patience_however_many_they_are() {
    for told in WAYS {
        let (mut world, Running { job, token, .. }) = World::running(spec("x"));
        let mut token = token;
        for i in 0..3 * limits().max_lost {
            let name = world
                .job(job)
                .attempt(token)
                .expect("an attempt")
                .worker
                .clone();
            lose_by_restart(&mut world, &name, token, told);
            let found = world.job(job);
            assert_eq!((found.failures, found.lost_in_a_row), (0, 0), "{told:?}");
            let end = found
                .attempt(token)
                .and_then(|a| a.end.as_ref())
                .expect("an end");
            assert!(
                end.outcome == Outcome::Lost && end.message.contains("does not count"),
                "{told:?}: {end:?}"
            );
            assert_eq!(
                found.state,
                JobState::Queued {
                    not_before: world.now.steady
                },
                "{told:?}: it is held"
            );
            let next = world.register(&format!("next {i}"), "1");
            token = world.start(next).1;
        }
    }
}

#[test]
fn a_restart_does_not_forgive_the_losses_before_and_after_it() {
    for told in WAYS {
        let (mut world, Running { job, .. }) = World::running(spec("x"));
        let lose = |world: &mut World, i: u32| {
            let session = world.register(&format!("lost {i}"), "1");
            world.start(session);
            world.pass(LEASE);
            world.pass(limits().max_backoff);
        };
        world.pass(LEASE);
        lose(&mut world, 1);
        assert_eq!(world.job(job).lost_in_a_row, 2);
        let b = world.register("b", "1");
        let (_, token) = world.start(b);
        lose_by_restart(&mut world, "b", token, told);
        assert_eq!(world.job(job).lost_in_a_row, 2, "{told:?}");
        lose(&mut world, 2);
        assert_eq!(world.job(job).lost_in_a_row, 3, "{told:?}");
        lose(&mut world, 3);
        assert!(
            matches!(world.state(job), JobState::Failed { .. }),
            "{told:?}: {:?}",
            world.state(job)
        );
    }
}

#[test]
fn who_came_back_after_a_restart_and_falls_silent_then_is_lost_as_any_other() {
    let (mut world, Running { job, token, .. }) = World::running(spec("x"));
    world.restart();
    let session = world.register_with("a", "1", Some(token));
    assert_eq!(
        world.sync(session, Some(token)),
        Response::Wanted(Wanted::GoOn)
    );
    world.pass(LEASE);
    assert_eq!(world.job(job).lost_in_a_row, 1);
}

#[test]
fn who_came_back_after_a_restart_and_then_returns_without_its_attempt_has_lost_it_itself() {
    let (mut world, Running { job, token, .. }) = World::running(spec("x"));
    world.restart();
    world.register_with("a", "1", Some(token));
    world.register("a", "1");
    assert_eq!(world.job(job).lost_in_a_row, 1);
}

#[test]
fn a_coordinator_that_is_restarted_again_and_again_takes_no_attempt_away() {
    let (mut world, Running { job, token, .. }) = World::running(spec("x"));
    for _ in 0..20 {
        world.pass(LEASE - 1);
        world.restart();
        assert_eq!(world.job(job).current_token(), Some(token));
    }
    let session = world.register_with("a", "1", Some(token));
    assert_eq!(
        world.sync(session, Some(token)),
        Response::Wanted(Wanted::GoOn)
    );
}

#[test]
fn of_several_workers_one_that_comes_back_without_the_attempt_costs_the_job_nothing() {
    for told in WAYS {
        let mut world = World::new();
        let a = world.register("a", "1");
        world.sync(a, None);
        let job = world.submit(for_two("x"));
        let b = world.register("b", "1");
        let (_, token) = world.start(b);
        lose_by_restart(&mut world, "a", token, told);
        assert_eq!(world.job(job).lost_in_a_row, 0, "{told:?}");
        assert!(
            matches!(world.state(job), JobState::Queued { .. }),
            "{told:?}"
        );
    }
}

#[test]
fn a_job_that_waits_is_started_after_a_restart_and_its_key_is_known() {
    let mut world = World::new();
    let job = world.submit(keyed("x", "k"));
    world.restart();
    assert_eq!(
        world.handle(Event::Submit {
            spec: keyed("x", "k")
        }),
        Response::Submitted {
            job,
            created: false
        }
    );
    let a = world.register("a", "1");
    assert_eq!(world.start(a).0, job);
}
