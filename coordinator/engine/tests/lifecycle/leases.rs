//! Leases end by the steady clock, and only after a worker was silent for a whole lease.

use qlora_engine::*;

use crate::world::*;

#[test]
fn a_lost_worker_gives_its_job_back_and_its_late_words_are_refused() {
    let mut world = World::new();
    let job = world.submit(spec("x"));
    let (a, b) = (world.register("a", "1"), world.register("b", "2"));
    let (_, first) = world.start(a);
    world.now = Now::both(LEASE - 1);
    assert_eq!(world.sync(b, None), Response::Wanted(Wanted::Nothing));
    world.now = Now::both(LEASE);
    world.handle(Event::Tick);
    assert!(matches!(world.state(job), JobState::Queued { .. }));
    let (_, second) = world.start(b);
    assert!(second > first);
    let late = |session| Event::Report {
        session,
        token: first,
        batch: 9,
        progress: None,
    };
    assert_eq!(
        world.handle(late(a)),
        Response::Refused(Refusal::StaleSession(a))
    );
    assert_eq!(
        world.sync(a, Some(first)),
        Response::Refused(Refusal::StaleSession(a))
    );
    let again = world.register_with("a", "1", Some(first));
    assert_eq!(
        world.handle(late(again)),
        Response::Refused(Refusal::StaleToken(first))
    );
    assert_eq!(world.engine.job(job).expect("a job").failures, 0);
}

#[test]
fn leases_do_not_hear_of_the_wall_clock() {
    let (
        mut world,
        Running {
            session: a,
            job,
            token,
        },
    ) = World::running(spec("x"));
    for wall in [3_600_000, 0, 86_400_000] {
        world.now.wall = Millis(wall);
        world.handle(Event::Tick);
        assert_eq!(world.sync(a, Some(token)), Response::Wanted(Wanted::GoOn));
    }
    world.now = Now {
        steady: Millis(LEASE),
        wall: Millis(0),
    };
    world.handle(Event::Tick);
    assert!(
        matches!(world.state(job), JobState::Queued { not_before } if *not_before == Millis(LEASE))
    );
}

#[test]
fn who_could_not_be_heard_is_not_lost() {
    let mut world = World::new();
    let job = world.submit(spec("x"));
    let a = world.register("a", "1");
    world.start(a);
    world.now = Now::both(10 * LEASE);
    world.handle(Event::Stalled { ms: 10 * LEASE });
    world.handle(Event::Tick);
    assert!(matches!(world.state(job), JobState::Running { .. }));
    world.now = Now::both(11 * LEASE);
    world.handle(Event::Tick);
    assert!(matches!(world.state(job), JobState::Queued { .. }));
}
