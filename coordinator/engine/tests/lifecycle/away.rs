//! Ended jobs that are away count as those at hand do.

use qlora_engine::*;

use crate::world::*;

/// A world with jobs that ended in their order, each with a file of its own and one of all, which is
/// named twice and with two sizes; the last one runs.
fn ended(many: u64) -> World {
    let mut world = World::new();
    let session = world.register("a", "1");
    for n in 1..=many + 1 {
        let mut spec = keyed("x", &format!("key {n}"));
        let file = |digest: String, size| File {
            role: FileRole::Train,
            name: "t".into(),
            digest,
            size,
        };
        let of_all = |size| file("of all".into(), size);
        spec.files = vec![file(format!("of {n}"), 10), of_all(10), of_all(7)];
        world.submit(spec);
        let (_, token) = world.start(session);
        if n <= many {
            world.pass(1);
            world.finish(token, Outcome::Succeeded);
        }
    }
    world
}

/// Everything that can be asked of ended jobs.
fn known(engine: &Engine) -> String {
    let all = [JobId(1), JobId(2), JobId(3)];
    let parts = [Prune::Job, Prune::Artifacts, Prune::Records];
    let prunable = parts.map(|what| engine.prunable(what, Millis(2), 0));
    let kept = parts.map(|what| engine.prunable(what, Millis(u64::MAX), 2));
    let freed = parts.map(|what| engine.freed(what, &all));
    let beyond = [0, 15, 30, 35, 1000].map(|bytes| engine.beyond_bytes(bytes));
    let digests = ["of 1", "of all", "adapter1", "of nobody"];
    let needed = digests.map(|digest| engine.may_need(digest, JobId(9), "none"));
    let mut every: Vec<&str> = engine.digests().collect();
    every.sort_unstable();
    every.dedup();
    format!("{prunable:?} {kept:?} {freed:?} {beyond:?} {needed:?} {every:?}")
}

#[test]
fn what_is_known_of_ended_jobs_does_not_depend_on_where_they_are() {
    let mut world = ended(3);
    let before = known(&world.engine);
    assert!(before.contains("of 1"), "{before}");
    world.engine.put_ended_away();
    assert_eq!(world.engine.jobs().count(), 1, "only what runs is at hand");
    assert_eq!(known(&world.engine), before);
    assert_eq!(world.engine.ended_away()[0], (Final::Succeeded, 3));
    // One that is at hand among others that are away.
    world.engine.recall(world.disk.jobs[&JobId(2)].clone());
    assert_eq!(known(&world.engine), before);
    // A start over the briefs knows the same as one over the jobs.
    let briefs: Vec<Ended> = world.disk.jobs.values().filter_map(Ended::of).collect();
    let live = world.disk.jobs.values().filter(|job| !job.state.is_final());
    let mut started = Engine::new(limits(), live.cloned().collect(), world.now, SEED);
    started.adopt_ended(briefs);
    assert_eq!(known(&started), before);
}

#[test]
fn an_event_asks_for_the_ended_jobs_that_it_names_by_number_or_by_key() {
    let mut world = ended(2);
    let submit = |key: &str| Event::Submit {
        spec: keyed("x", key),
    };
    let retry = |job, key: Option<&str>| Event::Retry {
        job: JobId(job),
        from_start: true,
        idempotency_key: key.map(str::to_owned),
        owner: String::new(),
    };
    assert!(world.engine.away(&submit("key 1")).is_empty(), "at hand");
    world.engine.put_ended_away();
    let away = |event: Event| world.engine.away(&event);
    assert_eq!(away(submit("key 1")), [JobId(1)]);
    assert_eq!(away(retry(1, Some("key 2"))), [JobId(1), JobId(2)]);
    assert_eq!(away(retry(1, Some("key 1"))), [JobId(1)]);
    for none in [submit("key 3"), submit("new"), retry(3, None), Event::Tick] {
        assert!(away(none.clone()).is_empty(), "{none:?}");
    }
    let job = JobId(2);
    let reason = String::new();
    for named in [
        Event::RemoveJob { job },
        Event::Cancel { job, reason },
        Event::Resume { job, from: None },
    ] {
        assert_eq!(away(named.clone()), [job], "{named:?}");
    }
}

#[test]
fn a_change_of_a_recalled_job_that_is_not_stored_is_taken_back() {
    let mut world = ended(2);
    world.engine.put_ended_away();
    let before = known(&world.engine);
    let job = JobId(1);
    for _ in 0..2 {
        world.engine.recall(world.disk.jobs[&job].clone());
        let response = world.unstored(Event::RemoveJob { job });
        assert_eq!(response, Response::Done);
        // What is not settled does not go away.
        world.engine.put_ended_away();
        world.engine.take_back(world.now);
        world.engine.put_ended_away();
        assert_eq!(known(&world.engine), before);
    }
    world.engine.recall(world.disk.jobs[&job].clone());
    world.unstored(Event::RemoveJob { job });
    world.engine.settled();
    world.engine.put_ended_away();
    assert_eq!(world.engine.ended_away()[0], (Final::Succeeded, 1));
    assert!(world.engine.away(&Event::RemoveJob { job }).is_empty());
    assert!(!world.engine.may_need("of 1", JobId(9), "none"));
    assert!(world.engine.may_need("of all", JobId(9), "none"));
}
