//! A success has a result to show.

use qlora_engine::*;

use crate::world::*;

fn of_kind(kind: JobKind) -> Box<JobSpec> {
    Box::new(JobSpec {
        kind,
        max_retries: 1,
        ..*spec("x")
    })
}

fn scored() -> Option<Box<Progress>> {
    Some(Box::new(Progress {
        scores: Some(Scores::default()),
        ..Progress::default()
    }))
}

#[test]
fn a_success_without_its_result_is_refused_and_counts_as_a_failure() {
    for (kind, missing) in [
        (JobKind::Train, "committed no adapter"),
        (JobKind::Eval, "reported no scores"),
    ] {
        let (
            mut world,
            Running {
                session,
                job,
                token,
            },
        ) = World::running(of_kind(kind));
        // Neither a checkpoint nor progress is a result.
        world.handle(Event::Commit {
            session,
            token,
            artifact: artifact(ArtifactKind::Checkpoint, 7),
        });
        world.handle(Event::Report {
            session,
            token,
            batch: 1,
            progress: Some(Box::default()),
        });
        let answer = world.finish_as(token, 0, Outcome::Succeeded);
        assert!(
            matches!(&answer, Response::Refused(Refusal::NoResult { .. })),
            "{answer:?}"
        );
        let Response::Refused(refusal) = answer else {
            unreachable!("it was refused")
        };
        assert!(refusal.to_string().contains(missing), "{refusal}");
        assert_eq!(world.job(job).failures, 1);
        // The attempt is over: said again, it is refused as any late word, and another attempt
        // begins.
        assert_eq!(
            world.finish_as(token, 0, Outcome::Succeeded),
            Response::Refused(Refusal::StaleToken(token))
        );
        world.pass(limits().backoff);
        let (again, token) = world.start(session);
        assert_eq!(again, job);
        // It does so each time: the job ends.
        world.finish_as(token, 0, Outcome::Succeeded);
        assert!(
            matches!(world.state(job), JobState::Failed { reason, .. } if reason.contains(missing))
        );
    }
}

#[test]
fn a_success_with_its_result_ends_the_job() {
    for kind in [JobKind::Train, JobKind::Eval, JobKind::Noop] {
        let (
            mut world,
            Running {
                session,
                job,
                token,
            },
        ) = World::running(of_kind(kind));
        match kind {
            JobKind::Train => drop(world.handle(Event::Commit {
                session,
                token,
                artifact: artifact(ArtifactKind::Adapter, 3),
            })),
            JobKind::Eval => drop(world.handle(Event::Report {
                session,
                token,
                batch: 1,
                progress: scored(),
            })),
            JobKind::Noop => {}
        }
        assert_eq!(
            world.finish_as(token, 0, Outcome::Succeeded),
            Response::Done,
            "{kind:?}"
        );
        assert!(
            matches!(world.state(job), JobState::Succeeded { .. }),
            "{kind:?}"
        );
    }
}

/// Whoever was asked to stop and says that it succeeded has nothing to show either.
#[test]
fn a_stopped_attempt_without_its_result_leaves_the_job_cancelled() {
    let (mut world, Running { job, token, .. }) = World::running(spec("x"));
    world.handle(Event::Cancel {
        job,
        reason: "enough".into(),
    });
    let answer = world.finish_as(token, 0, Outcome::Succeeded);
    assert!(
        matches!(answer, Response::Refused(Refusal::NoResult { .. })),
        "{answer:?}"
    );
    assert!(matches!(world.state(job), JobState::Cancelled { reason, .. } if reason == "enough"));
}

#[test]
fn of_several_only_the_first_answers_for_the_result() {
    let mut world = World::new();
    let (a, b) = (world.register("a", "1"), world.register("b", "2"));
    world.sync(a, None);
    let job = world.submit(for_two("x"));
    let (_, token) = world.start(b);
    assert_eq!(
        world.finish_as(token, 1, Outcome::Succeeded),
        Response::Done
    );
    assert!(matches!(
        world.finish_as(token, 0, Outcome::Succeeded),
        Response::Refused(Refusal::NoResult { .. })
    ));
    assert_eq!(world.job(job).failures, 1);
    assert!(world.engine.workers().all(|w| w.assigned.is_none()));
}
