//! Workers that an operator drains finish what they run, and are given nothing more.

use qlora_engine::*;

use crate::world::*;

fn drain(worker: &str, at_once: bool) -> Event {
    Event::Drain {
        worker: worker.into(),
        reason: "new disk".into(),
        at_once,
    }
}

fn undrain(worker: &str) -> Event {
    Event::Undrain {
        worker: worker.into(),
    }
}

fn nothing() -> Response {
    Response::Wanted(Wanted::Nothing)
}

fn worker<'a>(world: &'a World, name: &str) -> &'a Worker {
    let found = world.engine.workers().find(|w| w.name == name);
    found.expect("a worker")
}

#[test]
fn a_drained_worker_finishes_what_it_runs_and_is_given_nothing_more() {
    let (mut world, running) = World::running(spec("x"));
    let Running {
        session,
        job,
        token,
    } = running;
    let later = world.submit(spec("later"));
    let (answer, effects) = world.act(drain("a", false));
    assert_eq!(answer, Response::Done);
    let told = effects.iter().any(|effect| {
        matches!(effect, Effect::Record { kind: JournalKind::Drained, worker, text, .. }
            if worker.as_deref() == Some("a") && text == "new disk")
    });
    assert!(told, "{effects:?}");
    assert_eq!(
        world.sync(session, Some(token)),
        Response::Wanted(Wanted::GoOn)
    );
    world.finish(token, Outcome::Succeeded);
    assert!(matches!(world.state(job), JobState::Succeeded { .. }));
    assert_eq!(world.sync(session, None), nothing());
    let verdict = verdict(&Needs::default(), worker(&world, "a"));
    assert!(verdict.fits, "what it is has not changed");
    assert_eq!(verdict.reason, "a is suitable, but was drained: new disk");
    // The one that waits is woken as soon as it may take work again.
    let effects = world.act(undrain("a")).1;
    assert!(effects.contains(&Effect::Wake(session)), "{effects:?}");
    assert_eq!(world.start(session).0, later);
}

#[test]
fn a_drain_outlasts_restarts_of_the_worker_and_of_the_coordinator() {
    let mut world = World::new();
    world.register("a", "1");
    world.now = Now::both(7);
    world.handle(drain("a", false));
    let job = world.submit(spec("x"));
    let session = world.register("a", "1");
    assert_eq!(world.sync(session, None), nothing());
    world.restart();
    let session = world.register("a", "1");
    assert_eq!(world.sync(session, None), nothing());
    // It says itself that it is not about to end, which is another matter.
    let drained = worker(&world, "a").drained.clone();
    let drained = drained.expect("it is drained");
    assert_eq!(
        (drained.since, drained.reason),
        (Millis(7), "new disk".into())
    );
    assert!(!worker(&world, "a").draining);
    world.handle(undrain("a"));
    world.restart();
    let session = world.register("a", "1");
    assert_eq!(world.start(session).0, job);
}

#[test]
fn a_job_whose_worker_is_drained_at_once_goes_elsewhere_and_nothing_counts() {
    for outcome in [
        Outcome::Stopped,
        Outcome::Failed,
        Outcome::NoRoom,
        Outcome::Lost,
    ] {
        let (mut world, running) = World::running(spec("x"));
        let Running {
            session,
            job,
            token,
        } = running;
        let b = world.register("b", "2");
        assert_eq!(world.sync(b, None), nothing());
        assert_eq!(world.handle(drain("a", true)), Response::Done);
        assert_eq!(
            world.sync(session, Some(token)),
            Response::Wanted(Wanted::Stop {
                reason: "worker a is drained: new disk".into(),
                at_once: false,
                resumes: true
            })
        );
        world.handle(Event::Commit {
            session,
            token,
            artifact: artifact(ArtifactKind::Checkpoint, 9),
        });
        world.finish(token, outcome);
        let now = world.now.steady;
        assert_eq!(*world.state(job), JobState::Queued { not_before: now });
        assert_eq!(world.sync(session, None), nothing(), "{outcome:?}");
        assert_eq!(world.start(b).0, job, "{outcome:?}");
        let job = world.job(job);
        assert_eq!((job.failures, job.lost_in_a_row), (0, 0), "{outcome:?}");
        assert_eq!(job.checkpoint().map(|a| a.step), Some(9));
    }
}

#[test]
fn a_worker_that_dies_while_it_is_drained_at_once_loses_nothing_for_its_job() {
    let (mut world, running) = World::running(spec("x"));
    world.handle(drain("a", true));
    world.pass(LEASE);
    let job = world.job(running.job);
    assert!(matches!(job.state, JobState::Queued { .. }), "{job:?}");
    assert_eq!(job.lost_in_a_row, 0);
}

#[test]
fn what_would_fail_anywhere_fails_on_a_drained_worker_too() {
    for outcome in [Outcome::BadInput, Outcome::OutOfMemory] {
        let (mut world, running) = World::running(spec("x"));
        world.handle(drain("a", true));
        world.finish(running.token, outcome);
        let state = world.state(running.job);
        assert!(matches!(state, JobState::Failed { .. }), "{state:?}");
    }
}

#[test]
fn who_pauses_or_cancels_a_job_that_is_given_back_is_heard() {
    let reason = || "r".to_owned();
    let pause = |job| Event::Pause {
        job,
        reason: reason(),
    };
    let cancel = |job| Event::Cancel {
        job,
        reason: reason(),
    };
    let acts: [&dyn Fn(JobId) -> Event; 2] = [&pause, &cancel];
    for (act, word) in acts.into_iter().zip(["paused", "cancelled"]) {
        for drained_first in [true, false] {
            let (mut world, Running { job, token, .. }) = World::running(spec("x"));
            let mut both = [drain("a", true), act(job)];
            if !drained_first {
                both.reverse();
            }
            for event in both {
                assert_eq!(world.handle(event), Response::Done);
            }
            world.finish(token, Outcome::Stopped);
            assert_eq!(world.state(job).word(), word);
        }
    }
}

#[test]
fn the_time_limit_of_a_job_that_is_given_back_is_kept() {
    let mut spec = spec("x");
    spec.time_limit = Some(500);
    let (mut world, running) = World::running(spec);
    world.handle(drain("a", true));
    world.pass(500);
    world.finish(running.token, Outcome::Stopped);
    let state = world.state(running.job);
    assert!(matches!(state, JobState::Cancelled { .. }), "{state:?}");
}

#[test]
fn all_of_a_process_group_stop_for_one_that_is_drained_at_once() {
    let mut world = World::new();
    let (a, b) = (world.register("a", "1"), world.register("b", "2"));
    let job = world.submit(for_two("x"));
    assert_eq!(world.sync(b, None), nothing());
    let (_, token) = world.start(a);
    world.handle(drain("b", true));
    for session in [a, b] {
        let answer = world.sync(session, Some(token));
        let stops = matches!(answer, Response::Wanted(Wanted::Stop { resumes: true, .. }));
        assert!(stops, "{answer:?}");
    }
    // The first is left alone by the other, which is no failure either.
    world.finish_as(token, 0, Outcome::PeerLost);
    world.finish_as(token, 1, Outcome::PeerLost);
    assert!(matches!(world.state(job), JobState::Queued { .. }));
    assert_eq!(world.job(job).failures, 0);
    // One worker is too few, and the other is not counted.
    assert_eq!(world.sync(b, None), nothing());
    assert_eq!(world.sync(a, None), nothing());
    let effects = world.act(undrain("b")).1;
    assert!(effects.contains(&Effect::Wake(b)), "{effects:?}");
    assert_eq!(world.start(b).0, job);
}

#[test]
fn a_worker_that_was_kept_free_for_a_job_that_now_lacks_one_takes_another() {
    let mut world = World::new();
    let (a, b) = (world.register("a", "1"), world.register("b", "2"));
    world.submit(spec("first"));
    world.start(a);
    world.submit(for_two("wide"));
    let younger = world.submit(spec("younger"));
    assert_eq!(world.sync(b, None), nothing());
    let effects = world.act(drain("a", false)).1;
    assert!(effects.contains(&Effect::Wake(b)), "{effects:?}");
    assert_eq!(world.start(b).0, younger);
}

#[test]
fn a_drain_is_said_once_more_without_harm_and_of_known_workers_only() {
    let mut world = World::new();
    let unknown = || Response::Refused(Refusal::UnknownWorker("a".into()));
    assert_eq!(world.handle(drain("a", false)), unknown());
    assert_eq!(world.handle(undrain("a")), unknown());
    world.register("a", "1");
    assert_eq!(world.act(undrain("a")), (Response::Done, Vec::new()));
    world.handle(drain("a", false));
    world.now = Now::both(5);
    assert_eq!(world.act(drain("a", false)), (Response::Done, Vec::new()));
    let other = Event::Drain {
        worker: "a".into(),
        reason: "other".into(),
        at_once: false,
    };
    world.handle(other);
    let drained = &world.engine.drains()["a"];
    assert_eq!(
        (drained.since, drained.reason.as_str()),
        (Millis(0), "other")
    );
    // One that has not come back since a restart is known by its drain, and goes with it.
    world.restart();
    assert_eq!(world.handle(drain("a", false)), Response::Done);
    let name = "a".to_owned();
    assert_eq!(world.handle(Event::RemoveWorker { name }), Response::Done);
    assert!(world.engine.drains().is_empty());
    assert_eq!(world.handle(undrain("a")), unknown());
}

#[test]
fn a_drain_that_cannot_be_stored_is_taken_back() {
    let mut world = World::new();
    let a = world.register("a", "1");
    world.unstored(drain("a", false));
    world.take_back();
    assert_eq!(worker(&world, "a").drained, None);
    world.handle(drain("a", false));
    world.unstored(undrain("a"));
    world.take_back();
    world.submit(spec("x"));
    assert_eq!(world.sync(a, None), nothing());
}
