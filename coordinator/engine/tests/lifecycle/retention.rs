//! Ended jobs, or parts of them, go by age, number and bytes.

use qlora_engine::*;

use crate::world::*;

/// Jobs that end one after another, at 1000, 2000 and so on, each with a checkpoint of its own of
/// 10 bytes and an adapter of 1 byte that all share; the last one goes on.
fn world(ended: u64) -> (World, Vec<JobId>) {
    let mut world = World::new();
    let mut session = world.register("a", "1");
    let mut all = Vec::new();
    for n in 1..=ended {
        let job = world.submit(spec("x"));
        let (started, token) = world.start(session);
        assert_eq!(started, job);
        world.handle(Event::Commit {
            session,
            token,
            artifact: Artifact {
                size: 10,
                ..artifact(ArtifactKind::Checkpoint, n)
            },
        });
        let until = 1000 * n;
        while world.now.wall.0 < until {
            world.pass((until - world.now.wall.0).min(LEASE / 2));
            world.sync(session, Some(token));
        }
        world.finish(token, Outcome::Succeeded);
        all.push(job);
    }
    let job = world.submit(spec("x"));
    let (_, token) = world.start(session);
    session = world.session(token, 0);
    world.handle(Event::Commit {
        session,
        token,
        artifact: Artifact {
            size: 100,
            ..artifact(ArtifactKind::Checkpoint, 99)
        },
    });
    all.push(job);
    (world, all)
}

fn prune(job: JobId, what: Prune) -> Event {
    let reason = "for a test".into();
    Event::Prune { job, what, reason }
}

#[test]
fn ended_jobs_are_chosen_by_their_end_and_the_newest_stay() {
    let (world, all) = world(3);
    let chosen = |until, keep| world.engine.prunable(Prune::Job, Millis(until), keep);
    assert_eq!(chosen(u64::MAX, 0), all[..3]);
    assert_eq!(chosen(u64::MAX, 1), all[..2]);
    assert_eq!(chosen(u64::MAX, 9), []);
    assert_eq!(chosen(2000, 0), all[..2]);
    assert_eq!(chosen(2000, 2), all[..1]);
    assert_eq!(chosen(999, 0), []);
}

#[test]
fn what_several_need_is_freed_by_the_last_of_them() {
    let (mut world, all) = world(3);
    let ended = &all[..3];
    assert_eq!(world.engine.freed(Prune::Job, ended), [10, 10, 11]);
    assert_eq!(world.engine.freed(Prune::Job, &ended[..2]), [10, 10]);
    assert_eq!(world.engine.freed(Prune::Artifacts, ended), [10, 10, 11]);
    assert_eq!(world.engine.freed(Prune::Records, ended), [0, 0, 0]);
    // What somebody else was given stays with the job that made it.
    let adapter = artifact(ArtifactKind::Adapter, 1);
    let file = File {
        role: FileRole::Adapter,
        name: adapter.name,
        digest: adapter.digest,
        size: 1,
    };
    world.submit(Box::new(JobSpec {
        files: vec![file],
        ..*spec("eval")
    }));
    assert_eq!(world.engine.freed(Prune::Job, ended), [10, 10, 10]);
}

#[test]
fn the_jobs_that_ended_first_go_until_the_rest_fits() {
    let (world, all) = world(3);
    // 131 bytes: three checkpoints, the adapter, and what the running job has saved.
    let gone = |bytes| world.engine.beyond_bytes(bytes);
    assert_eq!(gone(131), []);
    assert_eq!(gone(130), all[..1]);
    assert_eq!(gone(121), all[..1]);
    assert_eq!(gone(120), all[..2]);
    assert_eq!(gone(0), all[..3], "what runs stays");
}

#[test]
fn artifacts_go_and_the_job_stays_with_its_final_state() {
    let (mut world, all) = world(2);
    let before = world.job(all[0]).clone();
    let (response, effects) = world.act(prune(all[0], Prune::Artifacts));
    assert_eq!(response, Response::Done);
    let released: Vec<_> = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Release { .. }))
        .collect();
    assert_eq!(released.len(), 2, "{effects:?}");
    assert!(!world.engine.may_need("checkpoint1", all[0], "other"));
    assert!(
        world.engine.may_need("adapter1", all[0], "other"),
        "another job has it"
    );
    let expected = Job {
        artifacts: Vec::new(),
        pruned: Pruned {
            artifacts: true,
            records: false,
        },
        ..before
    };
    assert_eq!(*world.job(all[0]), expected);
    let told = effects.iter().any(|effect| {
        matches!(effect, Effect::Record { kind: JournalKind::Pruned, text, .. } if text.contains("for a test"))
    });
    assert!(told, "{effects:?}");
    // There is nothing left to delete.
    assert_eq!(
        world.engine.prunable(Prune::Artifacts, Millis(u64::MAX), 0),
        all[1..2]
    );
    assert_eq!(world.act(prune(all[0], Prune::Artifacts)).1, []);
    world.restart();
    assert_eq!(*world.job(all[0]), expected);
}

#[test]
fn records_go_once() {
    let (mut world, all) = world(1);
    let (_, effects) = world.act(prune(all[0], Prune::Records));
    assert!(effects.contains(&Effect::RemoveRecords(all[0])));
    assert!(!world.job(all[0]).artifacts.is_empty());
    assert_eq!(world.act(prune(all[0], Prune::Records)).1, []);
    assert_eq!(
        world.engine.prunable(Prune::Records, Millis(u64::MAX), 0),
        []
    );
}

#[test]
fn what_has_not_ended_is_never_pruned_and_a_job_says_why_it_went() {
    let (mut world, all) = world(1);
    let running = all[1];
    for what in [Prune::Job, Prune::Artifacts, Prune::Records] {
        assert!(matches!(
            world.handle(prune(running, what)),
            Response::Refused(Refusal::WrongState {
                state: "running",
                ..
            })
        ));
    }
    let (_, effects) = world.act(prune(all[0], Prune::Job));
    assert!(effects.contains(&Effect::Remove(all[0])));
    let told = effects.iter().any(|effect| {
        matches!(effect, Effect::Record { kind: JournalKind::Removed, text, .. } if text == "x: for a test")
    });
    assert!(told, "{effects:?}");
    assert_eq!(
        world.handle(prune(all[0], Prune::Job)),
        Response::Refused(Refusal::UnknownJob(all[0]))
    );
}

#[test]
fn what_was_pruned_and_not_stored_comes_back() {
    let (mut world, all) = world(1);
    for what in [Prune::Artifacts, Prune::Records, Prune::Job] {
        assert_eq!(world.unstored(prune(all[0], what)), Response::Done);
        world.take_back();
        assert!(!world.job(all[0]).artifacts.is_empty());
        assert_eq!(world.job(all[0]).pruned, Pruned::default());
    }
}
