//! Jobs that several workers take together.

use qlora_engine::*;

use crate::world::*;

/// Two workers at a job for two, and its attempt.
fn two_at_work() -> (World, [SessionId; 2], JobId, Token) {
    let mut world = World::new();
    let sessions = [world.register("a", "1"), world.register("b", "2")];
    for session in sessions {
        assert_eq!(world.sync(session, None), Response::Wanted(Wanted::Nothing));
    }
    let job = world.submit(for_two("x"));
    let (_, token) = world.start(sessions[0]);
    assert_eq!(
        world.sync(sessions[1], None),
        Response::Wanted(Wanted::Run { job, token }),
        "it is told of it as well"
    );
    (world, sessions, job, token)
}

#[test]
fn a_job_for_two_starts_on_both_at_once_and_wakes_the_one_that_waits() {
    let mut world = World::new();
    let (a, b) = (world.register("a", "1"), world.register("b", "2"));
    let job = world.submit(for_two("x"));
    assert_eq!(
        world.sync(a, None),
        Response::Wanted(Wanted::Nothing),
        "one alone does not start it"
    );
    let event = synchronize(b, None);
    let (response, effects) = world.act(event);
    let Response::Wanted(Wanted::Run {
        job: started,
        token,
    }) = response
    else {
        panic!("{response:?}")
    };
    assert_eq!((started, token.number()), (job, 1));
    assert!(effects.contains(&Effect::Wake(a)), "{effects:?}");
    let attempt = world
        .engine
        .job(job)
        .and_then(|job| job.attempt(token))
        .expect("an attempt");
    assert_eq!(
        (
            attempt.rank("b"),
            attempt.rank("a"),
            attempt.rank("c"),
            attempt.size()
        ),
        (Some(0), Some(1), None, 2)
    );
}

#[test]
fn a_free_worker_is_kept_for_an_older_job_for_two_but_not_for_one_that_cannot_start() {
    let mut world = World::new();
    let (a, b) = (world.register("a", "1"), world.register("b", "2"));
    let first = world.submit(spec("long"));
    let (_, busy) = world.start(b);
    let (pair, younger) = (world.submit(for_two("pair")), world.submit(spec("younger")));
    assert_eq!(
        world.sync(a, None),
        Response::Wanted(Wanted::Nothing),
        "it is kept for the pair"
    );
    let worker = world.engine.worker_of(a).expect("a worker");
    assert_eq!(
        world.engine.kept_for(world.now, worker),
        Some(Reservation {
            job: pair,
            starts: None
        }),
        "and says so"
    );
    world.finish(busy, Outcome::Succeeded);
    assert!(matches!(world.state(first), JobState::Succeeded { .. }));
    let (started, token) = world.start(b);
    assert_eq!(started, pair);
    world.finish(token, Outcome::Succeeded);
    assert_eq!(world.start(a).0, younger);

    let mut world = World::new();
    let a = world.register("a", "1");
    world.submit(for_two("pair"));
    let younger = world.submit(spec("younger"));
    assert_eq!(
        world.start(a).0,
        younger,
        "there is no second worker to wait for"
    );
}

#[test]
fn nobody_is_woken_for_a_job_for_two_that_cannot_start_and_somebody_for_a_younger_one() {
    let mut world = World::new();
    let a = world.register("a", "1");
    world.submit(for_two("pair"));
    assert_eq!(world.sync(a, None), Response::Wanted(Wanted::Nothing));
    assert_eq!(world.act(Event::Tick).1, []);
    let failing = world.submit(spec("x"));
    let (job, token) = world.start(a);
    assert_eq!(job, failing);
    world.finish(token, Outcome::Failed);
    assert_eq!(world.sync(a, None), Response::Wanted(Wanted::Nothing));
    world.now = Now::both(100);
    assert_eq!(
        world.act(Event::Tick).1,
        [Effect::Wake(a)],
        "its backoff is over"
    );
}

#[test]
fn the_failure_of_any_ends_the_attempt_of_all_and_they_are_told_to_stop_at_once() {
    for (rank, outcome) in [
        (0, Outcome::Failed),
        (1, Outcome::Failed),
        (1, Outcome::Lost),
    ] {
        let (mut world, [a, b], job, token) = two_at_work();
        let event = Event::Finish {
            session: [a, b][rank],
            token,
            outcome,
            message: "why".into(),
            code: String::new(),
        };
        let (_, effects) = world.act(event);
        assert!(
            effects.contains(&Effect::Wake(a)) && effects.contains(&Effect::Wake(b)),
            "{effects:?}"
        );
        assert!(matches!(world.state(job), JobState::Queued { .. }));
        for session in [a, b] {
            let answer = world.sync(session, Some(token));
            assert!(
                matches!(answer, Response::Wanted(Wanted::Stop { at_once: true, .. })),
                "{answer:?}"
            );
        }
    }
    let (mut world, _, job, token) = two_at_work();
    world.finish_as(token, 1, Outcome::OutOfMemory);
    assert!(matches!(world.state(job), JobState::Failed { reason, .. } if reason == "why 1"));
}

#[test]
fn the_first_of_two_ends_the_job_whenever_the_other_is_done() {
    for second in [Outcome::Succeeded, Outcome::Stopped] {
        let (mut world, [_, b], job, token) = two_at_work();
        assert_eq!(world.finish_as(token, 1, second), Response::Done);
        assert!(
            matches!(world.state(job), JobState::Running { .. }),
            "the first one still saves"
        );
        assert_eq!(
            world.sync(b, None),
            Response::Wanted(Wanted::Nothing),
            "the second one is free"
        );
        assert_eq!(world.finish(token, Outcome::Succeeded), Response::Done);
        assert!(matches!(world.state(job), JobState::Succeeded { .. }));
    }
}

#[test]
fn who_lost_another_waits_for_its_word_and_if_all_did_the_attempt_has_failed() {
    let (mut world, [a, _], job, token) = two_at_work();
    world.finish_as(token, 0, Outcome::PeerLost);
    assert!(matches!(world.state(job), JobState::Running { .. }));
    assert_eq!(
        world.sync(a, None),
        Response::Wanted(Wanted::Nothing),
        "the first one is free"
    );
    world.finish_as(token, 1, Outcome::OutOfMemory);
    assert!(
        matches!(world.state(job), JobState::Failed { reason, .. } if reason == "why 1"),
        "the cause is told"
    );

    let (mut world, _, job, token) = two_at_work();
    world.finish_as(token, 1, Outcome::PeerLost);
    world.finish_as(token, 0, Outcome::PeerLost);
    assert!(matches!(world.state(job), JobState::Queued { .. }));
    assert_eq!(world.engine.job(job).expect("a job").failures, 1);
}

#[test]
fn losing_one_of_two_gives_the_job_back_and_both_reports_are_numbered_apart() {
    let (mut world, [a, b], job, token) = two_at_work();
    for session in [a, b] {
        let report = Event::Report {
            session,
            token,
            batch: 1,
            progress: None,
        };
        assert_eq!(
            world.handle(report.clone()),
            Response::Batch {
                job,
                is_new: true,
                gather: 0
            }
        );
        assert_eq!(
            world.handle(report),
            Response::Batch {
                job,
                is_new: false,
                gather: 0
            }
        );
    }
    let c = world.register("c", "3");
    let stranger = Event::Report {
        session: c,
        token,
        batch: 1,
        progress: None,
    };
    assert_eq!(
        world.handle(stranger),
        Response::Refused(Refusal::NotYours(token))
    );
    world.now = Now::both(LEASE - 1);
    world.sync(b, Some(token));
    world.now = Now::both(LEASE);
    world.handle(Event::Tick);
    assert_eq!(
        world.sync(a, Some(token)),
        Response::Refused(Refusal::StaleSession(a))
    );
    let answer = world.sync(b, Some(token));
    assert!(
        matches!(answer, Response::Wanted(Wanted::Stop { at_once: true, .. })),
        "{answer:?}"
    );
    assert!(matches!(world.state(job), JobState::Queued { .. }));
    assert_eq!(world.engine.job(job).expect("a job").failures, 0);
}
