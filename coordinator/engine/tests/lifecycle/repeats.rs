//! Ended jobs are done once more, or go.

use qlora_engine::*;

use crate::world::*;

fn retry(job: JobId, from_start: bool) -> Event {
    Event::Retry {
        job,
        from_start,
        idempotency_key: None,
        owner: String::new(),
    }
}

/// A job that has saved steps 10 and 20, and has ended with `outcome`.
fn ended(outcome: Outcome) -> (World, JobId) {
    let (mut world, running) = World::running(Box::new(JobSpec {
        max_retries: 0,
        ..*spec("x")
    }));
    for step in [10, 20] {
        let (session, token) = (running.session, running.token);
        world.handle(Event::Commit {
            session,
            token,
            artifact: artifact(ArtifactKind::Checkpoint, step),
        });
    }
    world.finish(running.token, outcome);
    assert!(world.state(running.job).is_final());
    (world, running.job)
}

fn made(response: Response) -> JobId {
    match response {
        Response::Submitted { job, created: true } => job,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_failed_job_is_done_again_from_where_it_was_or_from_the_start() {
    let (mut world, job) = ended(Outcome::Failed);
    let before = world.job(job).clone();
    let goes_on = made(world.handle(retry(job, false)));
    let anew = made(world.handle(retry(job, true)));
    assert_eq!(*world.job(job), before, "the old job stays as it is");
    for (id, step) in [(goes_on, Some(20)), (anew, None)] {
        let job = world.job(id);
        assert_eq!(job.checkpoint().map(|a| a.step), step);
        assert_eq!(job.spec.retry_of, Some(before.id));
        assert_eq!(job.spec.config_hash, before.spec.config_hash);
        assert!(matches!(job.state, JobState::Queued { .. }));
        assert!(job.attempts.is_empty());
    }
    // One that goes on after it keeps what both need.
    let (_, effects) = world.act(Event::RemoveJob { job });
    assert!(
        effects
            .iter()
            .any(|e| matches!(e, Effect::Release { digest, .. } if digest == "checkpoint20"))
    );
    assert!(world.engine.may_need("checkpoint20", job, "hash"));
    assert!(!world.engine.may_need("checkpoint10", job, "hash"));
}

#[test]
fn what_runs_or_has_succeeded_is_not_done_again_without_a_word() {
    let (mut world, running) = World::running(spec("x"));
    let Response::Refused(refusal) = world.handle(retry(running.job, false)) else {
        panic!("a running job was done again");
    };
    let way_out = format!("qlora-ctl cancel {} ends it", running.job);
    let said = refusal.to_string();
    assert!(
        said.contains("is running") && said.contains(&way_out),
        "{said}"
    );
    world.finish(running.token, Outcome::Succeeded);
    assert_eq!(
        world.handle(retry(running.job, false)),
        Response::Refused(Refusal::NothingLeft(running.job))
    );
    made(world.handle(retry(running.job, true)));
    assert_eq!(
        world.handle(retry(JobId(77), true)),
        Response::Refused(Refusal::UnknownJob(JobId(77)))
    );
}

#[test]
fn a_retry_with_a_key_is_made_once() {
    let (mut world, job) = ended(Outcome::Failed);
    let event = |job| Event::Retry {
        job,
        from_start: false,
        idempotency_key: Some("k".into()),
        owner: String::new(),
    };
    let first = made(world.handle(event(job)));
    assert_eq!(
        world.handle(event(job)),
        Response::Submitted {
            job: first,
            created: false
        }
    );
    // From the start it is another request, and so is the first submission.
    let from_start = Event::Retry {
        job,
        from_start: true,
        idempotency_key: Some("k".into()),
        owner: String::new(),
    };
    assert_eq!(
        world.handle(from_start),
        Response::Refused(Refusal::KeyReused(first))
    );
    assert_eq!(
        world.handle(Event::Submit {
            spec: keyed("x", "k")
        }),
        Response::Refused(Refusal::KeyReused(first))
    );
}

#[test]
fn a_removed_job_is_gone_for_good_and_its_number_is_not_given_again() {
    let (mut world, job) = ended(Outcome::BadInput);
    let (response, effects) = world.act(Event::RemoveJob { job });
    assert_eq!(response, Response::Done);
    assert!(effects.contains(&Effect::Remove(job)), "{effects:?}");
    assert!(world.engine.job(job).is_none());
    assert_eq!(
        world.handle(Event::RemoveJob { job }),
        Response::Refused(Refusal::UnknownJob(job))
    );
    world.restart();
    assert!(world.engine.job(job).is_none());
    assert!(world.submit(spec("y")) > job);
}

#[test]
fn what_has_not_ended_is_not_removed_and_what_was_not_stored_comes_back() {
    let (mut world, running) = World::running(spec("x"));
    let remove = |job| Event::RemoveJob { job };
    assert!(matches!(
        world.handle(remove(running.job)),
        Response::Refused(Refusal::WrongState { .. })
    ));
    world.finish(running.token, Outcome::BadInput);
    assert_eq!(world.unstored(remove(running.job)), Response::Done);
    world.take_back();
    assert!(world.engine.job(running.job).is_some());
}
