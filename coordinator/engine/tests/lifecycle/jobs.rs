//! A job from its submission to its end on one worker.

use qlora_engine::*;

use crate::world::*;

#[test]
fn a_job_starts_on_the_first_fitting_worker_and_ends_once() {
    let mut world = World::new();
    let session = world.register("a", "1");
    assert_eq!(world.sync(session, None), Response::Wanted(Wanted::Nothing));
    let (response, effects) = world.act(Event::Submit { spec: spec("x") });
    assert_eq!(
        response,
        Response::Submitted {
            job: JobId(1),
            created: true
        }
    );
    assert_eq!(effects.last(), Some(&Effect::Wake(session)));
    let (job, token) = world.start(session);
    assert_eq!(world.finish(token, Outcome::Succeeded), Response::Done);
    assert!(matches!(world.state(job), JobState::Succeeded { .. }));
    assert_eq!(
        world.finish(token, Outcome::Failed),
        Response::Refused(Refusal::StaleToken(token))
    );
    assert!(matches!(world.state(job), JobState::Succeeded { .. }));
}

#[test]
fn the_same_key_gives_the_same_job_and_another_configuration_under_it_is_refused() {
    let mut world = World::new();
    let job = world.submit(keyed("x", "k"));
    assert_eq!(
        world.handle(Event::Submit {
            spec: keyed("x", "k")
        }),
        Response::Submitted {
            job,
            created: false
        }
    );
    let mut other = keyed("x", "k");
    other.config_hash = "another".into();
    assert_eq!(
        world.handle(Event::Submit { spec: other }),
        Response::Refused(Refusal::KeyReused(job))
    );
}

#[test]
fn failures_are_repeated_with_growing_waits_and_then_end_the_job() {
    let mut world = World::new();
    let job = world.submit(spec("x"));
    let a = world.register("a", "1");
    for wait in [100, 200] {
        let (_, token) = world.start(a);
        world.finish(token, Outcome::Failed);
        assert_eq!(
            *world.state(job),
            JobState::Queued {
                not_before: world.now.steady.plus(wait)
            }
        );
        assert_eq!(world.sync(a, None), Response::Wanted(Wanted::Nothing));
        world.now = Now::both(world.now.steady.0 + wait);
    }
    let (_, token) = world.start(a);
    world.finish(token, Outcome::Failed);
    assert!(matches!(world.state(job), JobState::Failed { .. }));
}

#[test]
fn attempts_are_numbered_within_their_job_whatever_ran_before() {
    let mut world = World::new();
    let a = world.register("a", "1");
    for name in ["x", "y"] {
        let job = world.submit(spec(name));
        for number in 1..=3 {
            let (response, effects) = world.act(synchronize(a, None));
            let Response::Wanted(Wanted::Run { token, .. }) = response else {
                panic!("{response:?}")
            };
            assert_eq!(world.job(job).attempt_number(token), Some(number));
            assert!(
                effects.contains(&Effect::Record {
                    job: Some(job),
                    worker: Some("a".into()),
                    kind: JournalKind::Started,
                    text: format!("attempt {number}"),
                }),
                "{effects:?}"
            );
            world.finish(token, Outcome::Failed);
            // What was of it is refused without a word about another count.
            let stale = Refusal::StaleToken(token).to_string();
            assert!(!stale.contains(|c: char| c.is_ascii_digit()), "{stale}");
            world.now = Now::both(world.now.steady.0 + limits().max_backoff);
        }
        let other = Token(u64::MAX);
        assert_eq!(world.job(job).attempt_number(other), None);
    }
}

#[test]
fn bad_input_and_exhausted_memory_are_not_repeated() {
    for outcome in [Outcome::BadInput, Outcome::OutOfMemory] {
        let mut world = World::new();
        let job = world.submit(spec("x"));
        let a = world.register("a", "1");
        let (_, token) = world.start(a);
        world.finish(token, outcome);
        assert!(matches!(world.state(job), JobState::Failed { .. }));
    }
}

#[test]
fn a_job_that_has_failed_keeps_the_code_of_its_failure_and_gets_the_common_one_where_there_is_none()
{
    for (outcome, given, wanted) in [
        (Outcome::BadInput, "Q0511", "Q0511"),
        (Outcome::OutOfMemory, "Q0304", "Q0304"),
        (Outcome::Failed, "Q0517", "Q0517"),
        (Outcome::BadInput, "", "Q0501"),
        (Outcome::Failed, "", "Q0501"),
        (Outcome::PeerLost, "Q0516", "Q0516"),
    ] {
        let (
            mut world,
            Running {
                session,
                job,
                token,
            },
        ) = World::running(Box::new(JobSpec {
            max_retries: 0,
            ..*spec("x")
        }));
        world.handle(Event::Finish {
            session,
            token,
            outcome,
            message: "why".into(),
            code: given.into(),
        });
        let JobState::Failed { code, .. } = world.state(job) else {
            panic!("{outcome:?}: {:?}", world.state(job))
        };
        assert_eq!(code, wanted, "{outcome:?}");
        let end = world.job(job).attempts[0].end.as_ref().expect("an end");
        assert_eq!(end.code, given);
    }
}

#[test]
fn canceling_stops_a_running_attempt_and_a_queued_job_at_once() {
    let mut world = World::new();
    let (running, queued) = (world.submit(spec("x")), world.submit(spec("y")));
    let a = world.register("a", "1");
    let (_, token) = world.start(a);
    for job in [running, queued] {
        assert_eq!(
            world.handle(Event::Cancel {
                job,
                reason: "enough".into()
            }),
            Response::Done
        );
    }
    assert!(matches!(world.state(queued), JobState::Cancelled { .. }));
    assert_eq!(
        world.sync(a, Some(token)),
        Response::Wanted(Wanted::Stop {
            reason: "enough".into(),
            at_once: false,
            resumes: false
        })
    );
    world.finish(token, Outcome::Stopped);
    assert!(matches!(world.state(running), JobState::Cancelled { .. }));
}

#[test]
fn a_repeated_batch_is_acknowledged_and_not_new() {
    let (
        mut world,
        Running {
            session: a,
            job,
            token,
        },
    ) = World::running(spec("x"));
    let report = |batch| Event::Report {
        session: a,
        token,
        batch,
        progress: None,
    };
    // One attempt alone reports as it likes.
    let gather = 0;
    assert_eq!(
        world.handle(report(1)),
        Response::Batch {
            job,
            is_new: true,
            gather
        }
    );
    assert_eq!(
        world.handle(report(1)),
        Response::Batch {
            job,
            is_new: false,
            gather
        }
    );
    assert_eq!(
        world.handle(report(2)),
        Response::Batch {
            job,
            is_new: true,
            gather
        }
    );
}

#[test]
fn a_job_that_fits_nowhere_says_why() {
    let mut world = World::new();
    let mut big = spec("x");
    big.needs.memory.insert(DeviceClass::Cpu, 31 << 30);
    big.needs
        .advice
        .insert(DeviceClass::Cpu, "fits with data.max_seq_len: 512".into());
    world.submit(big.clone());
    let a = world.register("a", "1");
    assert_eq!(world.sync(a, None), Response::Wanted(Wanted::Nothing));
    let worker = world.engine.workers().next().expect("a worker");
    let verdict = verdict(&big.needs, worker);
    assert!(!verdict.fits);
    assert_eq!(
        verdict.reason,
        "needs 31.0 GiB, a may use 8.0; fits with data.max_seq_len: 512"
    );
}

#[test]
fn a_key_covers_the_files_whatever_their_order() {
    let file = |role: FileRole, digest: &str| File {
        role,
        name: format!("{role:?}"),
        digest: digest.into(),
        size: 1,
    };
    let with = |files: Vec<File>| {
        let mut spec = keyed("x", "k");
        spec.files = files;
        spec
    };
    let mut world = World::new();
    let job = world.submit(with(vec![
        file(FileRole::Train, "1"),
        file(FileRole::Eval, "2"),
    ]));
    let turned = Event::Submit {
        spec: with(vec![file(FileRole::Eval, "2"), file(FileRole::Train, "1")]),
    };
    assert_eq!(
        world.handle(turned),
        Response::Submitted {
            job,
            created: false
        }
    );
    for others in [
        vec![],
        vec![file(FileRole::Train, "1")],
        vec![file(FileRole::Train, "2"), file(FileRole::Eval, "1")],
    ] {
        assert_eq!(
            world.handle(Event::Submit { spec: with(others) }),
            Response::Refused(Refusal::KeyReused(job))
        );
    }
}

#[test]
fn of_its_checkpoints_a_job_keeps_the_newest_and_releases_the_others() {
    let mut world = World::new();
    let mut kept = spec("x");
    kept.checkpoints_to_keep = 2;
    let job = world.submit(kept);
    let a = world.register("a", "1");
    let (_, token) = world.start(a);
    let commit = |world: &mut World, kind: ArtifactKind, step: u64| {
        let artifact = artifact(kind, step);
        let effects = world
            .act(Event::Commit {
                session: a,
                token,
                artifact,
            })
            .1;
        effects
            .into_iter()
            .filter(|e| matches!(e, Effect::Release { .. }))
            .collect::<Vec<_>>()
    };
    for step in [10, 20] {
        assert_eq!(commit(&mut world, ArtifactKind::Checkpoint, step), []);
    }
    assert_eq!(
        commit(&mut world, ArtifactKind::Adapter, 20),
        [],
        "another kind"
    );
    let released = commit(&mut world, ArtifactKind::Checkpoint, 30);
    assert_eq!(
        released,
        [Effect::Release {
            job,
            config_hash: "hash".into(),
            digest: "checkpoint10".into()
        }]
    );
    assert!(!world.engine.may_need("checkpoint10", job, "hash"));
    for needed in ["checkpoint20", "checkpoint30", "adapter20"] {
        assert!(world.engine.may_need(needed, job, "hash"), "{needed}");
    }
    // A twin that runs makes the same bytes, and may have been told that they are there.
    world.submit(spec("twin"));
    let b = world.register("b", "2");
    world.start(b);
    assert!(world.engine.may_need("checkpoint10", job, "hash"));
}

#[test]
fn a_gpu_of_a_machine_with_too_little_memory_of_its_own_does_not_fit() {
    let mut world = World::new();
    let event = Event::Register {
        name: "a".into(),
        instance: "1".into(),
        previous: None,
        platform: platform(DeviceClass::Cuda, 80),
        running: None,
    };
    world.handle(event);
    let worker = world.engine.workers().next().expect("a worker");
    let needs = |gib: u64| Needs {
        host_memory: gib << 30,
        ..Needs::default()
    };
    assert!(verdict(&needs(80), worker).fits);
    assert_eq!(
        verdict(&needs(92), worker).reason,
        "needs 92.0 GiB of host memory beside its GPU, a has 80.0"
    );
}
