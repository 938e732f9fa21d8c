//! Jobs are paused and go on.

use qlora_engine::*;

use crate::world::*;

fn pause(job: JobId) -> Event {
    Event::Pause {
        job,
        reason: "lunch".into(),
    }
}

fn resume(job: JobId, from: Option<u64>) -> Event {
    Event::Resume { job, from }
}

fn commit(world: &mut World, token: Token, step: u64) {
    let session = world.session(token, 0);
    let response = world.handle(Event::Commit {
        session,
        token,
        artifact: artifact(ArtifactKind::Checkpoint, step),
    });
    assert_eq!(response, Response::Done);
}

#[test]
fn a_queued_job_that_is_paused_starts_once_it_is_resumed_and_not_before() {
    let mut world = World::new();
    let (job, other) = (world.submit(spec("x")), world.submit(spec("y")));
    assert_eq!(world.handle(pause(job)), Response::Done);
    assert!(matches!(world.state(job), JobState::Paused { reason, .. } if reason == "lunch"));
    // Asked for once more, nothing changes, and it is no error.
    assert_eq!(world.handle(pause(job)), Response::Done);
    let session = world.register("a", "1");
    let (started, token) = world.start(session);
    assert_eq!(started, other);
    world.finish(token, Outcome::Succeeded);
    assert_eq!(world.sync(session, None), Response::Wanted(Wanted::Nothing));
    let (response, effects) = world.act(resume(job, None));
    assert_eq!(response, Response::Done);
    assert!(effects.contains(&Effect::Wake(session)), "{effects:?}");
    assert_eq!(world.start(session).0, job);
}

#[test]
fn a_running_job_saves_pauses_and_frees_its_worker() {
    let (mut world, running) = World::running(spec("x"));
    let Running {
        session,
        job,
        token,
    } = running;
    assert_eq!(world.handle(pause(job)), Response::Done);
    assert_eq!(
        world.sync(session, Some(token)),
        Response::Wanted(Wanted::Stop {
            reason: "lunch".into(),
            at_once: false,
            resumes: false
        })
    );
    commit(&mut world, token, 7);
    world.finish(token, Outcome::Stopped);
    assert!(matches!(world.state(job), JobState::Paused { .. }));
    // A restart of the coordinator does not start it.
    world.restart();
    let session = world.register("a", "1");
    assert_eq!(world.sync(session, None), Response::Wanted(Wanted::Nothing));
    assert_eq!(world.handle(resume(job, None)), Response::Done);
    let (started, second) = world.start(session);
    assert_eq!(started, job);
    assert!(second > token);
    assert_eq!(world.job(job).checkpoint().map(|a| a.step), Some(7));
}

#[test]
fn whatever_ends_the_attempt_of_a_job_that_pauses_leaves_it_paused_unless_it_would_end_so_again() {
    for (outcome, word) in [
        (Outcome::Stopped, "paused"),
        (Outcome::Failed, "paused"),
        (Outcome::Lost, "paused"),
        (Outcome::NoRoom, "paused"),
        (Outcome::BadInput, "failed"),
        (Outcome::OutOfMemory, "failed"),
        (Outcome::Succeeded, "succeeded"),
    ] {
        let (mut world, running) = World::running(spec("x"));
        world.handle(pause(running.job));
        world.finish(running.token, outcome);
        let state = world.state(running.job);
        assert_eq!(state.word(), word, "{outcome:?}");
    }
}

#[test]
fn a_cancel_outdoes_a_pause_and_a_pause_no_cancel() {
    let (mut world, running) = World::running(spec("x"));
    let cancel = |job| Event::Cancel {
        job,
        reason: "enough".into(),
    };
    world.handle(pause(running.job));
    assert_eq!(world.handle(cancel(running.job)), Response::Done);
    assert!(matches!(
        world.handle(pause(running.job)),
        Response::Refused(Refusal::WrongState { .. })
    ));
    world.finish(running.token, Outcome::Stopped);
    assert!(matches!(
        world.state(running.job),
        JobState::Cancelled { .. }
    ));
    assert!(matches!(
        world.handle(pause(running.job)),
        Response::Refused(Refusal::JobEnded { .. })
    ));

    let paused = world.submit(spec("y"));
    world.handle(pause(paused));
    assert_eq!(world.handle(cancel(paused)), Response::Done);
    assert!(matches!(world.state(paused), JobState::Cancelled { .. }));
    assert!(matches!(
        world.handle(resume(paused, None)),
        Response::Refused(Refusal::WrongState { .. })
    ));
}

#[test]
fn a_job_goes_back_to_a_checkpoint_that_it_has_and_to_no_other() {
    let (mut world, running) = World::running(spec("x"));
    for step in [10, 20, 30] {
        commit(&mut world, running.token, step);
    }
    world.handle(pause(running.job));
    world.finish(running.token, Outcome::Stopped);
    assert_eq!(
        world.handle(resume(running.job, Some(15))),
        Response::Refused(Refusal::NoCheckpoint {
            job: running.job,
            step: 15,
            kept: vec![10, 20, 30]
        })
    );
    let (response, effects) = world.act(resume(running.job, Some(20)));
    assert_eq!(response, Response::Done);
    let job = world.job(running.job);
    assert_eq!(job.checkpoint().map(|a| a.step), Some(20));
    let released = effects
        .iter()
        .filter(|e| matches!(e, Effect::Release { .. }));
    assert_eq!(released.count(), 1);
    // The answer was lost: who asks again is told the same, and nothing else goes.
    assert_eq!(
        world.act(resume(running.job, Some(20))),
        (Response::Done, Vec::new())
    );
    assert!(matches!(
        world.handle(resume(running.job, Some(10))),
        Response::Refused(Refusal::WrongState {
            state: "queued",
            ..
        })
    ));
    // What comes after is taken again.
    let (_, token) = world.start(running.session);
    commit(&mut world, token, 25);
}

#[test]
fn a_job_that_has_not_paused_yet_is_not_resumed_and_the_refusal_says_what_it_does() {
    let (mut world, running) = World::running(spec("x"));
    let state_of = |response| match response {
        Response::Refused(Refusal::WrongState { state, .. }) => state,
        other => panic!("{other:?}"),
    };
    let refused = world.handle(resume(running.job, None));
    assert_eq!(state_of(refused), "running");
    world.handle(pause(running.job));
    let refused = world.handle(resume(running.job, None));
    assert_eq!(state_of(refused), "being paused");
    world.handle(Event::Cancel {
        job: running.job,
        reason: "enough".into(),
    });
    let refused = world.handle(resume(running.job, None));
    assert_eq!(state_of(refused), "being cancelled");
}
