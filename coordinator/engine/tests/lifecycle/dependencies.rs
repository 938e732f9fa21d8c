//! Jobs that come after other jobs.

use qlora_engine::*;

use crate::world::*;

fn cancel(job: JobId) -> Event {
    Event::Cancel {
        job,
        reason: "r".into(),
    }
}

fn nothing() -> Response {
    Response::Wanted(Wanted::Nothing)
}

/// Why the job was cancelled.
fn reason(world: &World, job: JobId) -> &str {
    match world.state(job) {
        JobState::Cancelled { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_job_starts_once_all_that_it_comes_after_have_succeeded() {
    let mut world = World::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| world.register(name, "1"));
    let [first, second] = [0, 1].map(|_| world.submit(spec("x")));
    let last = world.submit(after(&[first, second], false));
    let (_, one) = world.start(a);
    let (_, other) = world.start(b);
    assert_eq!(world.sync(c, None), nothing());
    world.finish(one, Outcome::Succeeded);
    assert_eq!(world.job(last).waits_for, [second]);
    assert_eq!(world.sync(c, None), nothing());
    // The rest outlasts a restart.
    world.restart();
    let c = world.register("c", "1");
    assert_eq!(world.sync(c, None), nothing());
    let b = world.register_with("b", "1", Some(other));
    world.sync(b, Some(other));
    let session = world.session(other, 0);
    world.handle(Event::Commit {
        session,
        token: other,
        artifact: artifact(ArtifactKind::Adapter, 1),
    });
    let (_, effects) = world.act(Event::Finish {
        session,
        token: other,
        outcome: Outcome::Succeeded,
        message: String::new(),
        code: String::new(),
    });
    assert!(effects.contains(&Effect::Wake(c)), "{effects:?}");
    assert_eq!(world.start(c).0, last);
}

#[test]
fn what_comes_after_a_job_that_fails_is_cancelled_with_all_that_comes_after_it() {
    let (mut world, running) = World::running(spec("x"));
    let next = world.submit(after(&[running.job], false));
    let any = world.submit(after(&[running.job], true));
    let last = world.submit(after(&[next], false));
    let paused = world.submit(after(&[running.job], false));
    world.handle(Event::Pause {
        job: paused,
        reason: "r".into(),
    });
    world.finish(running.token, Outcome::BadInput);
    let failed = format!("job {}, which it comes after, has failed", running.job);
    assert_eq!(
        (reason(&world, next), reason(&world, paused)),
        (&*failed, &*failed)
    );
    let cancelled = format!("job {next}, which it comes after, was cancelled");
    assert_eq!(reason(&world, last), cancelled);
    assert_eq!(world.start(running.session).0, any);
}

#[test]
fn a_job_that_is_cancelled_before_its_start_takes_those_after_it_along() {
    let mut world = World::new();
    let first = world.submit(spec("x"));
    let next = world.submit(after(&[first], false));
    world.handle(cancel(first));
    let cancelled = format!("job {first}, which it comes after, was cancelled");
    assert_eq!(reason(&world, next), cancelled);
}

#[test]
fn a_job_comes_after_none_that_is_not_there_or_can_no_longer_succeed() {
    let mut world = World::new();
    let submit = |world: &mut World, jobs: &[JobId], any| {
        world.handle(Event::Submit {
            spec: after(jobs, any),
        })
    };
    let unknown = Refusal::UnknownDependency(JobId(7));
    assert_eq!(
        submit(&mut world, &[JobId(7)], true),
        Response::Refused(unknown)
    );
    // No job can name itself or a later one, so none waits for itself.
    let itself = Refusal::UnknownDependency(JobId(1));
    assert_eq!(
        submit(&mut world, &[JobId(1)], false),
        Response::Refused(itself)
    );
    let job = world.submit(spec("x"));
    world.handle(cancel(job));
    let state = "cancelled";
    let ended = Refusal::DependencyEnded { job, state };
    assert_eq!(submit(&mut world, &[job], false), Response::Refused(ended));
    assert!(matches!(
        submit(&mut world, &[job], true),
        Response::Submitted { .. }
    ));
}

#[test]
fn a_job_comes_after_one_that_only_the_store_knows_as_after_one_at_hand() {
    let (mut world, running) = World::running(spec("x"));
    world.finish(running.token, Outcome::Succeeded);
    let cancelled = world.submit(spec("x"));
    world.handle(cancel(cancelled));
    for is_restarted in [false, true] {
        if is_restarted {
            world.restart();
        }
        world.engine.put_ended_away();
        assert_eq!(world.engine.job(running.job), None);
        let next = world.submit(after(&[running.job], false));
        assert!(world.job(next).waits_for.is_empty(), "it may start");
        let refused = world.handle(Event::Submit {
            spec: after(&[running.job, cancelled], false),
        });
        let ended = Refusal::DependencyEnded {
            job: cancelled,
            state: "cancelled",
        };
        assert_eq!(refused, Response::Refused(ended));
        let any = world.submit(after(&[running.job, cancelled], true));
        assert!(world.job(any).waits_for.is_empty(), "it may start");
    }
    world.handle(Event::RemoveJob { job: running.job });
    let refused = world.handle(Event::Submit {
        spec: after(&[running.job], true),
    });
    let unknown = Refusal::UnknownDependency(running.job);
    assert_eq!(refused, Response::Refused(unknown));
}

/// What retention may delete is never what somebody waits for, whatever is away.
#[test]
fn what_a_job_waits_for_is_not_among_what_may_go() {
    let (mut world, running) = World::running(spec("x"));
    let ended = world.submit(spec("x"));
    world.handle(cancel(ended));
    let last = world.submit(after(&[running.job, ended], true));
    world.engine.put_ended_away();
    assert_eq!(world.job(last).waits_for, [running.job]);
    let may_go = |world: &World| world.engine.prunable(Prune::Job, Millis(u64::MAX), 0);
    assert_eq!(may_go(&world), [ended]);
    world.handle(Event::RemoveJob { job: ended });
    assert_eq!(world.job(last).waits_for, [running.job]);
    world.finish(running.token, Outcome::Failed);
    assert!(may_go(&world).is_empty(), "it is tried again");
}

#[test]
fn what_has_ended_is_waited_for_by_nobody_so_that_its_deletion_changes_nothing() {
    let (mut world, running) = World::running(spec("x"));
    let mut other = spec("other");
    other.needs.device = Some(DeviceClass::Cuda);
    let other = world.submit(other);
    let last = world.submit(after(&[running.job, other], false));
    world.finish(running.token, Outcome::Succeeded);
    world.handle(Event::RemoveJob { job: running.job });
    assert_eq!(world.job(last).waits_for, [other]);
    world.restart();
    assert_eq!(world.job(last).waits_for, [other]);
    // What has not ended is not deleted, whoever waits for it.
    let refused = world.handle(Event::RemoveJob { job: other });
    assert!(matches!(
        refused,
        Response::Refused(Refusal::WrongState { .. })
    ));
}

#[test]
fn a_job_that_is_done_again_comes_after_no_other_and_is_waited_for_by_none() {
    let (mut world, running) = World::running(spec("x"));
    let next = world.submit(after(&[running.job], false));
    world.finish(running.token, Outcome::BadInput);
    let again = |job| Event::Retry {
        job,
        from_start: false,
        idempotency_key: None,
        owner: "ann".into(),
    };
    world.handle(again(running.job));
    assert!(
        world.state(next).is_final(),
        "the retry is a job of its own"
    );
    let Response::Submitted { job, .. } = world.handle(again(next)) else {
        panic!("a retry");
    };
    let made = world.job(job);
    assert_eq!(
        (&made.spec.after, made.spec.owner.as_str()),
        (&After::default(), "ann")
    );
    assert!(made.waits_for.is_empty());
}

#[test]
fn a_paused_job_that_comes_after_another_waits_for_both() {
    let (mut world, running) = World::running(spec("x"));
    let next = world.submit(after(&[running.job], false));
    world.handle(Event::Pause {
        job: next,
        reason: "r".into(),
    });
    world.finish(running.token, Outcome::Succeeded);
    assert_eq!(world.sync(running.session, None), nothing());
    world.handle(Event::Resume {
        job: next,
        from: None,
    });
    assert_eq!(world.start(running.session).0, next);
}
