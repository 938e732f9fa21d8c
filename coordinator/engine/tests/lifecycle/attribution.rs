//! What a failure is attributed to: the job, its worker, or a restart of the coordinator.

use qlora_engine::*;

use crate::world::*;

#[test]
fn a_job_that_loses_workers_and_saves_nothing_is_held_and_then_fails() {
    let lose = |world: &mut World, i: u64, saves: bool| {
        let session = world.register(&format!("w{i}"), "1");
        let (_, token) = world.start(session);
        if saves {
            world.handle(Event::Commit {
                session,
                token,
                artifact: artifact(ArtifactKind::Checkpoint, i),
            });
        }
        world.pass(LEASE);
    };
    let mut world = World::new();
    let job = world.submit(spec("x"));
    for (i, wait) in [0, 100, 200].into_iter().enumerate() {
        lose(&mut world, i as u64, false);
        assert_eq!(
            *world.state(job),
            JobState::Queued {
                not_before: world.now.steady.plus(wait)
            }
        );
        world.now = Now::both(world.now.steady.0 + wait);
    }
    lose(&mut world, 3, false);
    let JobState::Failed { reason, code, .. } = world.state(job) else {
        panic!("{:?}", world.state(job))
    };
    assert!(
        reason.contains("4 workers were lost one after another") && code == "Q0501",
        "{code} {reason}"
    );

    let mut world = World::new();
    let job = world.submit(spec("x"));
    for i in 0..12 {
        lose(&mut world, i, true);
        assert_eq!(
            *world.state(job),
            JobState::Queued {
                not_before: world.now.steady
            },
            "it saves before each loss"
        );
    }
}

#[test]
fn a_job_that_failed_on_one_worker_waits_for_another_that_fits_and_not_for_ever() {
    let mut world = World::new();
    let job = world.submit(spec("x"));
    let (bad, good) = (world.register("bad", "1"), world.register("good", "2"));
    let (_, token) = world.start(bad);
    world.finish(token, Outcome::Failed);
    world.now = Now::both(100);
    assert_eq!(
        world.sync(bad, None),
        Response::Wanted(Wanted::Nothing),
        "the other one comes first"
    );
    let (again, token) = world.start(good);
    assert_eq!(again, job);
    world.finish(token, Outcome::Failed);
    world.now = Now::both(500);
    assert_eq!(world.start(bad).0, job, "it has failed on both");

    let mut world = World::new();
    let (bad, good) = (world.register("bad", "1"), world.register("good", "2"));
    let long = world.submit(spec("long"));
    assert_eq!(world.start(good).0, long);
    let job = world.submit(spec("x"));
    let (_, token) = world.start(bad);
    world.finish(token, Outcome::Failed);
    let from = |ms: u64| Now::both(100 + ms);
    for ms in (0..limits().elsewhere).step_by(500) {
        world.now = from(ms);
        world.sync(good, world.engine.worker_of(good).and_then(|w| w.assigned));
        assert_eq!(world.sync(bad, None), Response::Wanted(Wanted::Nothing));
    }
    // Its end is a deadline: until then nothing else is due.
    let due = Millis(100 + limits().elsewhere);
    assert_eq!(world.engine.next_deadline(world.now.steady), Some(due));
    world.now = from(limits().elsewhere);
    assert_eq!(
        world.start(bad).0,
        job,
        "the other one is busy for too long"
    );
}

#[test]
fn a_job_whose_worker_has_no_room_goes_to_another_or_waits_longer_each_time_and_uses_up_no_attempt()
{
    let mut world = World::new();
    let job = world.submit(spec("x"));
    let full = world.register("full", "1");
    for wait in [100, 200, 400, 800, 1000, 1000] {
        let (_, token) = world.start(full);
        world.finish(token, Outcome::NoRoom);
        assert_eq!(
            *world.state(job),
            JobState::Queued {
                not_before: world.now.steady.plus(wait)
            }
        );
        world.now = Now::both(world.now.steady.0 + wait);
    }
    assert_eq!(world.engine.job(job).expect("a job").failures, 0);
    let other = world.register("other", "2");
    assert_eq!(
        world.sync(full, None),
        Response::Wanted(Wanted::Nothing),
        "the other one comes first"
    );
    assert_eq!(world.start(other).0, job);
}

#[test]
fn a_worker_on_which_jobs_fail_that_succeed_elsewhere_is_set_aside_until_it_registers_again() {
    let mut world = World::new();
    let (bad, good) = (world.register("bad", "1"), world.register("good", "2"));
    for _ in 0..3 {
        world.submit(spec("x"));
        let (_, token) = world.start(bad);
        world.finish(token, Outcome::Failed);
        world.now = Now::both(world.now.steady.0 + 100);
        let (_, token) = world.start(good);
        world.finish(token, Outcome::Succeeded);
    }
    let job = world.submit(spec("x"));
    assert_eq!(world.sync(bad, None), Response::Wanted(Wanted::Nothing));
    let worker = world.engine.worker_of(bad).expect("a worker");
    let verdict = verdict(&Needs::default(), worker);
    assert!(
        !verdict.fits
            && verdict
                .reason
                .starts_with("3 jobs failed on bad and succeeded elsewhere"),
        "{verdict:?}"
    );
    let again = world.register("bad", "1");
    assert_eq!(world.start(again).0, job);
}
