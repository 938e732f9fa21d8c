//! Who a worker is, and who may speak for an attempt.

use qlora_engine::*;

use crate::world::*;

#[test]
fn a_worker_leaves_the_list_only_once_it_is_away_and_holds_nothing() {
    let mut world = World::new();
    let a = world.register("a", "1");
    let remove = |name: &str| Event::RemoveWorker { name: name.into() };
    assert_eq!(
        world.handle(remove("b")),
        Response::Refused(Refusal::UnknownWorker("b".into()))
    );
    assert_eq!(
        world.handle(remove("a")),
        Response::Refused(Refusal::WorkerPresent("a".into()))
    );
    world.submit(spec("x"));
    world.start(a);
    world.now = Now::both(LEASE);
    world.handle(Event::Tick);
    assert_eq!(world.handle(remove("a")), Response::Done);
    assert_eq!(world.engine.workers().count(), 0);
    world.register("a", "another instance");
}

#[test]
fn a_restarted_worker_gives_its_job_back_at_once() {
    let mut world = World::new();
    world.submit(spec("x"));
    let a = world.register("a", "1");
    let (_, first) = world.start(a);
    let again = world.register("a", "1");
    let (_, second) = world.start(again);
    assert!(second > first);
}

#[test]
fn a_second_worker_of_the_same_name_is_refused_while_the_first_is_there() {
    let mut world = World::new();
    world.register("a", "1");
    let event = register("a", "2", None);
    assert_eq!(
        world.handle(event.clone()),
        Response::Refused(Refusal::NameTaken { name: "a".into() })
    );
    world.now = Now::both(LEASE);
    world.handle(Event::Tick);
    assert!(matches!(world.handle(event), Response::Registered { .. }));
}

#[test]
fn a_restart_of_the_coordinator_is_invisible_to_a_running_attempt() {
    let (
        mut world,
        Running {
            session: a,
            job,
            token,
        },
    ) = World::running(spec("x"));
    world.now = Now::both(5000);
    world.restart();
    assert_eq!(
        world.sync(a, Some(token)),
        Response::Refused(Refusal::StaleSession(a))
    );
    let session = world.register_with("a", "1", Some(token));
    assert_eq!(
        world.sync(session, Some(token)),
        Response::Wanted(Wanted::GoOn)
    );
    assert_eq!(world.finish(token, Outcome::Succeeded), Response::Done);
    assert!(matches!(world.state(job), JobState::Succeeded { .. }));
}

/// Every event that a worker sends of an attempt, by `session`.
fn words_of(session: SessionId, token: Token) -> [Event; 4] {
    let artifact = artifact(ArtifactKind::Adapter, 1);
    let rendezvous = Rendezvous {
        addresses: vec!["a:1".into()],
        secret: vec![1],
    };
    [
        Event::Report {
            session,
            token,
            batch: 1,
            progress: None,
        },
        Event::Commit {
            session,
            token,
            artifact,
        },
        Event::Offer {
            session,
            token,
            rendezvous,
        },
        Event::Finish {
            session,
            token,
            outcome: Outcome::Succeeded,
            message: String::new(),
            code: String::new(),
        },
    ]
}

#[test]
fn only_the_worker_of_an_attempt_speaks_for_it() {
    let mut world = World::new();
    let job = world.submit(spec("x"));
    let (a, b) = (world.register("a", "1"), world.register("b", "2"));
    let (_, token) = world.start(a);
    let before = world.engine.job(job).cloned();
    for event in words_of(b, token) {
        assert_eq!(
            world.handle(event),
            Response::Refused(Refusal::NotYours(token))
        );
    }
    let nobody = SessionId(a.0 ^ 1);
    for event in words_of(nobody, token) {
        assert_eq!(
            world.handle(event),
            Response::Refused(Refusal::StaleSession(nobody))
        );
    }
    // The number of the attempt is known to everyone; the token is not.
    let guessed = Token(token.0 ^ 1);
    // A worker without a session may report an attempt of another coordinator. It only learns that
    // it has to register.
    for event in words_of(nobody, guessed) {
        assert_eq!(
            world.handle(event),
            Response::Refused(Refusal::StaleSession(nobody))
        );
    }
    for event in words_of(a, guessed) {
        assert_eq!(
            world.handle(event),
            Response::Refused(Refusal::StaleToken(guessed))
        );
    }
    assert_eq!(world.engine.job(job).cloned(), before);
    for event in words_of(a, token) {
        assert!(!matches!(world.handle(event), Response::Refused(_)));
    }
    assert!(matches!(world.state(job), JobState::Succeeded { .. }));
}

#[test]
fn tokens_grow_and_neither_they_nor_sessions_repeat_under_another_seed() {
    let given = |seed| {
        let mut world = World::seeded(seed);
        let mut all = Vec::new();
        for i in 0..20 {
            world.submit(spec("x"));
            let session = world.register(&format!("w{i}"), "1");
            all.push((session, world.start(session).1));
        }
        all
    };
    let (one, other) = (given([1; 32]), given([2; 32]));
    assert!(one.is_sorted_by(|a, b| a.1 < b.1));
    assert!(one.iter().map(|(_, token)| token.number()).eq(1..=20));
    for (a, b) in one.iter().zip(&other) {
        assert!(a.0 != b.0 && a.1 != b.1, "{a:?} {b:?}");
    }
}

#[test]
fn a_namesake_does_not_take_a_running_job_after_a_restart_of_the_coordinator() {
    let (mut world, Running { job, token, .. }) = World::running(spec("x"));
    world.now = Now::both(5000);
    world.restart();
    let register = |instance: &str, running| register("a", instance, running);
    for running in [None, Some(token)] {
        assert_eq!(
            world.handle(register("2", running)),
            Response::Refused(Refusal::NameTaken { name: "a".into() })
        );
    }
    let session = world.register_with("a", "1", Some(token));
    assert_eq!(
        world.sync(session, Some(token)),
        Response::Wanted(Wanted::GoOn)
    );
    assert!(matches!(world.state(job), JobState::Running { .. }));
}

fn taken() -> Response {
    Response::Refused(Refusal::IdentityTaken { name: "a".into() })
}

#[test]
fn a_copy_of_a_state_folder_does_not_take_the_place_of_its_original() {
    let (
        mut world,
        Running {
            session: a,
            job,
            token,
        },
    ) = World::running(spec("x"));
    // The copy holds the session of a registration before the last one, or none, and may even name
    // the attempt.
    let copied = Some(a);
    let a = world.register_with("a", "1", Some(token));
    assert_eq!(world.sync(a, Some(token)), Response::Wanted(Wanted::GoOn));
    for previous in [copied, None, Some(SessionId(0))] {
        for running in [None, Some(token)] {
            let copy = presenting(previous, ("a", "1"), running);
            assert_eq!(world.handle(copy), taken(), "{previous:?} {running:?}");
        }
    }
    assert_eq!(world.sync(a, Some(token)), Response::Wanted(Wanted::GoOn));
    assert!(matches!(world.state(job), JobState::Running { .. }));
    // Under another name it is another worker.
    let copy = presenting(copied, ("b", "1"), None);
    assert!(matches!(world.handle(copy), Response::Registered { .. }));
}

#[test]
fn a_copy_that_was_quicker_keeps_the_name_and_the_original_is_refused_until_it_leaves() {
    let mut world = World::new();
    let a = world.register("a", "1");
    world.sync(a, None);
    world.submit(spec("x"));
    // Both have the last session: the first to come has it, the other is told.
    let copy = presenting(Some(a), ("a", "1"), None);
    let Response::Registered { session } = world.handle(copy.clone()) else {
        panic!("the first to come is the successor");
    };
    let (_, token) = world.start(session);
    assert_eq!(
        world.sync(a, None),
        Response::Refused(Refusal::StaleSession(a))
    );
    assert_eq!(world.handle(copy.clone()), taken());
    assert_eq!(
        world.sync(session, Some(token)),
        Response::Wanted(Wanted::GoOn)
    );
    world.pass(LEASE);
    assert!(matches!(world.handle(copy), Response::Registered { .. }));
}

#[test]
fn a_worker_whose_session_was_not_stored_is_taken_once_its_lease_has_ended() {
    let (mut world, Running { job, .. }) = World::running(spec("x"));
    // It ended before it had written the session down, or is of a version that presents none.
    let restarted = register("a", "1", None);
    assert_eq!(world.handle(restarted.clone()), taken());
    world.pass(LEASE);
    assert!(matches!(world.state(job), JobState::Queued { .. }));
    assert!(matches!(
        world.handle(restarted),
        Response::Registered { .. }
    ));
}

/// Whoever has not used its session may not have got it, and need not wait for a lease to ask again.
#[test]
fn a_worker_that_has_lost_its_session_is_taken_at_once_only_if_it_never_used_it() {
    let mut world = World::new();
    let restarted = register("a", "1", None);
    let registered = |world: &mut World| match world.handle(restarted.clone()) {
        Response::Registered { session } => session,
        other => panic!("not taken: {other:?}"),
    };
    let unused = registered(&mut world);
    let session = registered(&mut world);
    assert_eq!(
        world.sync(unused, None),
        Response::Refused(Refusal::StaleSession(unused))
    );
    world.pass(LEASE / 2);
    world.sync(session, None);
    // Its lease runs from when it was heard.
    world.pass(LEASE - 1);
    assert_eq!(world.handle(restarted.clone()), taken());
    world.pass(1);
    registered(&mut world);
}

#[test]
fn a_worker_that_never_heard_of_its_session_asks_again_and_keeps_its_attempt() {
    let (
        mut world,
        Running {
            session: a, token, ..
        },
    ) = World::running(spec("x"));
    // Answers are lost on their way.
    let again = presenting(Some(a), ("a", "1"), Some(token));
    for _ in 0..2 {
        assert!(matches!(
            world.handle(again.clone()),
            Response::Registered { .. }
        ));
    }
    // Who no longer runs the attempt is not who asked before.
    let copy = presenting(Some(a), ("a", "1"), None);
    assert_eq!(world.handle(copy), taken());
    let Response::Registered { session } = world.handle(again.clone()) else {
        panic!("no session");
    };
    assert_eq!(
        world.sync(session, Some(token)),
        Response::Wanted(Wanted::GoOn)
    );
    // The session has arrived.
    assert_eq!(world.handle(again), taken());
}

#[test]
fn after_a_restart_of_the_coordinator_no_session_is_known_and_the_state_folder_counts() {
    let (mut world, Running { token, .. }) = World::running(spec("x"));
    world.restart();
    let Response::Registered { session } = world.handle(register("a", "1", Some(token))) else {
        panic!("no session");
    };
    assert_eq!(
        world.sync(session, Some(token)),
        Response::Wanted(Wanted::GoOn)
    );
    assert_eq!(world.handle(register("a", "1", Some(token))), taken());
}

/// Both may come before the original does: it has an attempt, and the coordinator has just started.
#[test]
fn a_copy_that_comes_first_after_a_restart_of_the_coordinator_ends_no_attempt() {
    let (
        mut world,
        Running {
            session: a, token, ..
        },
    ) = World::running(spec("x"));
    world.restart();
    // Its session is from before the last registration, or it has none.
    for previous in [None, Some(SessionId(a.0 ^ 1))] {
        let copy = presenting(previous, ("a", "1"), None);
        assert_eq!(world.handle(copy), taken(), "{previous:?}");
    }
    let session = world.register_with("a", "1", Some(token));
    assert_eq!(
        world.sync(session, Some(token)),
        Response::Wanted(Wanted::GoOn)
    );
}

#[test]
fn a_worker_that_was_restarted_with_the_coordinator_shows_the_session_that_is_stored() {
    let (mut world, Running { job, token, .. }) = World::running(spec("x"));
    world.restart();
    let session = world.register_with("a", "1", Some(token));
    // What it reports is stored, and the session with it.
    let report = Event::Report {
        session,
        token,
        batch: 1,
        progress: None,
    };
    assert!(matches!(world.handle(report), Response::Batch { .. }));
    world.restart();
    world.register("a", "1");
    assert!(matches!(world.state(job), JobState::Queued { .. }));
}

#[test]
fn a_worker_whose_session_was_not_stored_is_taken_a_lease_after_the_coordinator_started() {
    let (mut world, Running { job, token, .. }) = World::running(spec("x"));
    world.restart();
    let session = world.register_with("a", "1", Some(token));
    world.restart();
    let restarted = presenting(Some(session), ("a", "1"), None);
    assert_eq!(world.handle(restarted.clone()), taken());
    world.pass(LEASE);
    assert_eq!(world.job(job).lost_in_a_row, 0);
    assert!(matches!(
        world.handle(restarted),
        Response::Registered { .. }
    ));
}
