//! The life of a job, event by event: each test takes the expected answers and effects, and the property test
//! holds named invariants after every event of a random history.

use std::collections::BTreeMap;

use proptest::prelude::*;
use qlora_engine::*;

const LEASE: u64 = 1000;

fn limits() -> Limits {
    Limits { lease: LEASE, backoff: 100, max_backoff: 1000, elsewhere: 5000, max_lost: 4 }
}

fn platform(device: DeviceClass, gib: u64) -> Box<Platform> {
    Box::new(Platform {
        device,
        device_name: "a device".into(),
        device_memory: gib << 30,
        device_memory_free: gib << 30,
        compute_capability: String::new(),
        driver: String::new(),
        cpu_model: String::new(),
        cpu_cores: 2,
        memory: gib << 30,
        disk_free: 0,
        bf16: false,
        flash_attention: false,
        os: "linux".into(),
        labels: BTreeMap::new(),
        version: "0".into(),
        host: String::new(),
        device_id: String::new(),
    })
}

fn spec(name: &str, key: Option<&str>) -> Box<JobSpec> {
    Box::new(JobSpec {
        kind: JobKind::Train,
        name: name.into(),
        config_json: "{}".into(),
        config_hash: "hash".into(),
        files: Vec::new(),
        needs: Needs::default(),
        max_retries: 2,
        checkpoints_to_keep: 0,
        idempotency_key: key.map(str::to_owned),
        traceparent: String::new(),
    })
}

const SEED: Seed = [7; 32];

struct World {
    engine: Engine,
    now: Now,
}

impl World {
    fn new() -> Self {
        Self { engine: Engine::new(limits(), Vec::new(), Now::both(0), SEED), now: Now::both(0) }
    }

    fn handle(&mut self, event: Event) -> Response {
        self.engine.handle(self.now, event).0
    }

    fn submit(&mut self, spec: Box<JobSpec>) -> JobId {
        match self.handle(Event::Submit { spec }) {
            Response::Submitted { job, .. } => job,
            other => panic!("{other:?}"),
        }
    }

    fn register(&mut self, name: &str, instance: &str) -> SessionId {
        let event = Event::Register {
            name: name.into(),
            instance: instance.into(),
            platform: platform(DeviceClass::Cpu, 8),
            running: None,
        };
        match self.handle(event) {
            Response::Registered { session } => session,
            other => panic!("{other:?}"),
        }
    }

    fn sync(&mut self, session: SessionId, running: Option<Token>) -> Response {
        self.handle(Event::Synchronize { session, running, memory_free: 0, disk_free: 0, draining: false })
    }

    fn start(&mut self, session: SessionId) -> (JobId, Token) {
        match self.sync(session, None) {
            Response::Wanted(Wanted::Run { job, token }) => (job, token),
            other => panic!("{other:?}"),
        }
    }

    fn state(&self, job: JobId) -> &JobState {
        &self.engine.job(job).expect("a job").state
    }

    fn finish(&mut self, token: Token, outcome: Outcome) -> Response {
        self.finish_as(token, 0, outcome)
    }

    fn finish_as(&mut self, token: Token, rank: u32, outcome: Outcome) -> Response {
        let session = self.session(token, rank);
        self.handle(Event::Finish { session, token, outcome, message: format!("why {rank}") })
    }

    /// The session of the worker of `rank` in the attempt `token`; one that nobody has, where there is none.
    fn session(&self, token: Token, rank: u32) -> SessionId {
        let attempt = self.engine.jobs().find_map(|job| job.attempt(token));
        let is_it = |w: &&Worker| attempt.is_some_and(|a| a.rank(&w.name) == Some(rank));
        self.engine.workers().find(is_it).map_or(SessionId(u64::MAX), |w| w.session)
    }
}

#[test]
fn a_job_starts_on_the_first_fitting_worker_and_ends_once() {
    let mut world = World::new();
    let session = world.register("a", "1");
    assert_eq!(world.sync(session, None), Response::Wanted(Wanted::Nothing));
    let (response, effects) = world.engine.handle(world.now, Event::Submit { spec: spec("x", None) });
    assert_eq!(response, Response::Submitted { job: JobId(1), created: true });
    assert_eq!(effects.last(), Some(&Effect::Wake(session)));
    let (job, token) = world.start(session);
    assert_eq!(world.finish(token, Outcome::Succeeded), Response::Done);
    assert!(matches!(world.state(job), JobState::Succeeded { .. }));
    assert_eq!(world.finish(token, Outcome::Failed), Response::Refused(Refusal::StaleToken(token)));
    assert!(matches!(world.state(job), JobState::Succeeded { .. }));
}

#[test]
fn the_same_key_gives_the_same_job_and_another_configuration_under_it_is_refused() {
    let mut world = World::new();
    let job = world.submit(spec("x", Some("k")));
    assert_eq!(world.handle(Event::Submit { spec: spec("x", Some("k")) }), Response::Submitted { job, created: false });
    let mut other = spec("x", Some("k"));
    other.config_hash = "another".into();
    assert_eq!(world.handle(Event::Submit { spec: other }), Response::Refused(Refusal::KeyReused(job)));
}

#[test]
fn a_lost_worker_gives_its_job_back_and_its_late_words_are_refused() {
    let mut world = World::new();
    let job = world.submit(spec("x", None));
    let (a, b) = (world.register("a", "1"), world.register("b", "2"));
    let (_, first) = world.start(a);
    world.now = Now::both(LEASE - 1);
    assert_eq!(world.sync(b, None), Response::Wanted(Wanted::Nothing));
    world.now = Now::both(LEASE);
    world.handle(Event::Tick);
    assert!(matches!(world.state(job), JobState::Queued { .. }));
    let (_, second) = world.start(b);
    assert!(second > first);
    let late = Event::Report { session: a, token: first, batch: 9, progress: None };
    assert_eq!(world.handle(late), Response::Refused(Refusal::StaleToken(first)));
    assert_eq!(world.sync(a, Some(first)), Response::Refused(Refusal::StaleSession(a)));
    assert_eq!(world.engine.job(job).expect("a job").failures, 0);
}

#[test]
fn a_restarted_worker_gives_its_job_back_at_once() {
    let mut world = World::new();
    world.submit(spec("x", None));
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
    let event = Event::Register {
        name: "a".into(),
        instance: "2".into(),
        platform: platform(DeviceClass::Cpu, 8),
        running: None,
    };
    assert_eq!(world.handle(event.clone()), Response::Refused(Refusal::NameTaken { name: "a".into() }));
    world.now = Now::both(LEASE);
    world.handle(Event::Tick);
    assert!(matches!(world.handle(event), Response::Registered { .. }));
}

#[test]
fn a_restart_of_the_coordinator_is_invisible_to_a_running_attempt() {
    let mut world = World::new();
    let job = world.submit(spec("x", None));
    let a = world.register("a", "1");
    let (_, token) = world.start(a);
    let jobs = world.engine.jobs().cloned().collect();
    let mut world = World { engine: Engine::new(limits(), jobs, Now::both(5000), [8; 32]), now: Now::both(5000) };
    assert_eq!(world.sync(a, Some(token)), Response::Refused(Refusal::StaleSession(a)));
    let event = Event::Register {
        name: "a".into(),
        instance: "1".into(),
        platform: platform(DeviceClass::Cpu, 8),
        running: Some(token),
    };
    let Response::Registered { session } = world.handle(event) else { panic!("not registered") };
    assert_eq!(world.sync(session, Some(token)), Response::Wanted(Wanted::GoOn));
    assert_eq!(world.finish(token, Outcome::Succeeded), Response::Done);
    assert!(matches!(world.state(job), JobState::Succeeded { .. }));
}

#[test]
fn failures_are_repeated_with_growing_waits_and_then_end_the_job() {
    let mut world = World::new();
    let job = world.submit(spec("x", None));
    let a = world.register("a", "1");
    for wait in [100, 200] {
        let (_, token) = world.start(a);
        world.finish(token, Outcome::Failed);
        assert_eq!(*world.state(job), JobState::Queued { not_before: world.now.steady.plus(wait) });
        assert_eq!(world.sync(a, None), Response::Wanted(Wanted::Nothing));
        world.now = Now::both(world.now.steady.0 + wait);
    }
    let (_, token) = world.start(a);
    world.finish(token, Outcome::Failed);
    assert!(matches!(world.state(job), JobState::Failed { .. }));
}

#[test]
fn bad_input_and_exhausted_memory_are_not_repeated() {
    for outcome in [Outcome::BadInput, Outcome::OutOfMemory] {
        let mut world = World::new();
        let job = world.submit(spec("x", None));
        let a = world.register("a", "1");
        let (_, token) = world.start(a);
        world.finish(token, outcome);
        assert!(matches!(world.state(job), JobState::Failed { .. }));
    }
}

#[test]
fn cancelling_stops_a_running_attempt_and_a_queued_job_at_once() {
    let mut world = World::new();
    let (running, queued) = (world.submit(spec("x", None)), world.submit(spec("y", None)));
    let a = world.register("a", "1");
    let (_, token) = world.start(a);
    for job in [running, queued] {
        assert_eq!(world.handle(Event::Cancel { job, reason: "enough".into() }), Response::Done);
    }
    assert!(matches!(world.state(queued), JobState::Cancelled { .. }));
    assert_eq!(world.sync(a, Some(token)), Response::Wanted(Wanted::Stop { reason: "enough".into(), at_once: false }));
    world.finish(token, Outcome::Stopped);
    assert!(matches!(world.state(running), JobState::Cancelled { .. }));
}

#[test]
fn a_repeated_batch_is_acknowledged_and_not_new() {
    let mut world = World::new();
    let job = world.submit(spec("x", None));
    let a = world.register("a", "1");
    let (_, token) = world.start(a);
    let report = |batch| Event::Report { session: a, token, batch, progress: None };
    assert_eq!(world.handle(report(1)), Response::Batch { job, is_new: true });
    assert_eq!(world.handle(report(1)), Response::Batch { job, is_new: false });
    assert_eq!(world.handle(report(2)), Response::Batch { job, is_new: true });
}

#[test]
fn a_job_that_fits_nowhere_says_why() {
    let mut world = World::new();
    let mut big = spec("x", None);
    big.needs.memory.insert(DeviceClass::Cpu, 31 << 30);
    big.needs.advice.insert(DeviceClass::Cpu, "fits with data.max_seq_len: 512".into());
    world.submit(big.clone());
    let a = world.register("a", "1");
    assert_eq!(world.sync(a, None), Response::Wanted(Wanted::Nothing));
    let worker = world.engine.workers().next().expect("a worker");
    let verdict = verdict(&big.needs, worker);
    assert!(!verdict.fits);
    assert_eq!(verdict.reason, "needs 31.0 GiB, a may use 8.0; fits with data.max_seq_len: 512");
}

/// Every event that a worker sends of an attempt, by `session`.
fn words_of(session: SessionId, token: Token) -> [Event; 4] {
    let artifact = Artifact { kind: "checkpoint".into(), name: "c".into(), digest: "d".into(), size: 1, step: 1 };
    let meeting = Meeting { addresses: vec!["a:1".into()], secret: vec![1] };
    [
        Event::Report { session, token, batch: 1, progress: None },
        Event::Commit { session, token, artifact },
        Event::Offer { session, token, meeting },
        Event::Finish { session, token, outcome: Outcome::Succeeded, message: String::new() },
    ]
}

#[test]
fn only_the_worker_of_an_attempt_speaks_for_it() {
    let mut world = World::new();
    let job = world.submit(spec("x", None));
    let (a, b) = (world.register("a", "1"), world.register("b", "2"));
    let (_, token) = world.start(a);
    let before = world.engine.job(job).cloned();
    for event in words_of(b, token) {
        assert_eq!(world.handle(event), Response::Refused(Refusal::NotYours(token)));
    }
    let nobody = SessionId(a.0 ^ 1);
    for event in words_of(nobody, token) {
        assert_eq!(world.handle(event), Response::Refused(Refusal::StaleSession(nobody)));
    }
    // The number of the attempt is known to everyone; the token is not.
    let guessed = Token(token.0 ^ 1);
    for event in words_of(a, guessed) {
        assert_eq!(world.handle(event), Response::Refused(Refusal::StaleToken(guessed)));
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
        let engine = Engine::new(limits(), Vec::new(), Now::both(0), seed);
        let mut world = World { engine, now: Now::both(0) };
        let mut all = Vec::new();
        for i in 0..20 {
            world.submit(spec("x", None));
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
fn a_key_covers_the_files_whatever_their_order() {
    let file = |role: &str, digest: &str| File { role: role.into(), name: role.into(), digest: digest.into(), size: 1 };
    let with = |files: Vec<File>| {
        let mut spec = spec("x", Some("k"));
        spec.files = files;
        spec
    };
    let mut world = World::new();
    let job = world.submit(with(vec![file("train", "1"), file("eval", "2")]));
    let turned = Event::Submit { spec: with(vec![file("eval", "2"), file("train", "1")]) };
    assert_eq!(world.handle(turned), Response::Submitted { job, created: false });
    for others in [vec![], vec![file("train", "1")], vec![file("train", "2"), file("eval", "1")]] {
        assert_eq!(world.handle(Event::Submit { spec: with(others) }), Response::Refused(Refusal::KeyReused(job)));
    }
}

#[test]
fn a_namesake_does_not_take_a_running_job_after_a_restart_of_the_coordinator() {
    let mut world = World::new();
    let job = world.submit(spec("x", None));
    let a = world.register("a", "1");
    let (_, token) = world.start(a);
    let jobs = world.engine.jobs().cloned().collect();
    let mut world = World { engine: Engine::new(limits(), jobs, Now::both(5000), [8; 32]), now: Now::both(5000) };
    let register = |instance: &str, running| Event::Register {
        name: "a".into(),
        instance: instance.into(),
        platform: platform(DeviceClass::Cpu, 8),
        running,
    };
    for running in [None, Some(token)] {
        assert_eq!(world.handle(register("2", running)), Response::Refused(Refusal::NameTaken { name: "a".into() }));
    }
    let Response::Registered { session } = world.handle(register("1", Some(token))) else { panic!("not registered") };
    assert_eq!(world.sync(session, Some(token)), Response::Wanted(Wanted::GoOn));
    assert!(matches!(world.state(job), JobState::Running { .. }));
}

#[test]
fn of_its_checkpoints_a_job_keeps_the_newest_and_releases_the_others() {
    let mut world = World::new();
    let mut kept = spec("x", None);
    kept.checkpoints_to_keep = 2;
    let job = world.submit(kept);
    let a = world.register("a", "1");
    let (_, token) = world.start(a);
    let commit = |world: &mut World, kind: &str, step: u64| {
        let (name, digest) = (format!("{kind}-{step}"), format!("{kind}{step}"));
        let artifact = Artifact { kind: kind.into(), name, digest, size: 1, step };
        let effects = world.engine.handle(world.now, Event::Commit { session: a, token, artifact }).1;
        effects.into_iter().filter(|e| matches!(e, Effect::Release { .. })).collect::<Vec<_>>()
    };
    for step in [10, 20] {
        assert_eq!(commit(&mut world, "checkpoint", step), []);
    }
    assert_eq!(commit(&mut world, "adapter", 20), [], "another kind");
    let released = commit(&mut world, "checkpoint", 30);
    assert_eq!(released, [Effect::Release { job, digest: "checkpoint10".into() }]);
    assert!(!world.engine.may_need("checkpoint10", job));
    for needed in ["checkpoint20", "checkpoint30", "adapter20"] {
        assert!(world.engine.may_need(needed, job), "{needed}");
    }
    // A twin that runs makes the same bytes, and may have been told that they are there.
    world.submit(spec("twin", None));
    let b = world.register("b", "2");
    world.start(b);
    assert!(world.engine.may_need("checkpoint10", job));
}

#[test]
fn leases_do_not_hear_of_the_wall_clock() {
    let mut world = World::new();
    let job = world.submit(spec("x", None));
    let a = world.register("a", "1");
    let (_, token) = world.start(a);
    for wall in [3_600_000, 0, 86_400_000] {
        world.now.wall = Millis(wall);
        world.handle(Event::Tick);
        assert_eq!(world.sync(a, Some(token)), Response::Wanted(Wanted::GoOn));
    }
    world.now = Now { steady: Millis(LEASE), wall: Millis(0) };
    world.handle(Event::Tick);
    assert!(matches!(world.state(job), JobState::Queued { not_before } if *not_before == Millis(LEASE)));
}

#[test]
fn who_could_not_be_heard_is_not_lost() {
    let mut world = World::new();
    let job = world.submit(spec("x", None));
    let a = world.register("a", "1");
    world.start(a);
    world.now = Now::both(10 * LEASE);
    world.handle(Event::Stalled { ms: 10 * LEASE });
    world.handle(Event::Tick);
    assert!(matches!(world.state(job), JobState::Running { .. }));
    world.now = Now::both(11 * LEASE);
    world.handle(Event::Tick);
    assert!(matches!(world.state(job), JobState::Queued { .. }));
}

#[test]
fn a_job_that_loses_workers_and_saves_nothing_is_held_and_then_fails() {
    let lose = |world: &mut World, i: u64, saves: bool| {
        let session = world.register(&format!("w{i}"), "1");
        let (_, token) = world.start(session);
        if saves {
            let artifact =
                Artifact { kind: "checkpoint".into(), name: "c".into(), digest: "d".into(), size: 1, step: i };
            world.handle(Event::Commit { session, token, artifact });
        }
        world.now = Now::both(world.now.steady.0 + LEASE);
        world.handle(Event::Tick);
    };
    let mut world = World::new();
    let job = world.submit(spec("x", None));
    for (i, wait) in [0, 100, 200].into_iter().enumerate() {
        lose(&mut world, i as u64, false);
        assert_eq!(*world.state(job), JobState::Queued { not_before: world.now.steady.plus(wait) });
        world.now = Now::both(world.now.steady.0 + wait);
    }
    lose(&mut world, 3, false);
    let JobState::Failed { reason, .. } = world.state(job) else { panic!("{:?}", world.state(job)) };
    assert!(reason.contains("4 workers were lost one after another"), "{reason}");

    let mut world = World::new();
    let job = world.submit(spec("x", None));
    for i in 0..12 {
        lose(&mut world, i, true);
        assert_eq!(*world.state(job), JobState::Queued { not_before: world.now.steady }, "it saves before each loss");
    }
}

#[test]
fn a_job_that_failed_on_one_worker_waits_for_another_that_fits_and_not_for_ever() {
    let mut world = World::new();
    let job = world.submit(spec("x", None));
    let (bad, good) = (world.register("bad", "1"), world.register("good", "2"));
    let (_, token) = world.start(bad);
    world.finish(token, Outcome::Failed);
    world.now = Now::both(100);
    assert_eq!(world.sync(bad, None), Response::Wanted(Wanted::Nothing), "the other one comes first");
    let (again, token) = world.start(good);
    assert_eq!(again, job);
    world.finish(token, Outcome::Failed);
    world.now = Now::both(500);
    assert_eq!(world.start(bad).0, job, "it has failed on both");

    let mut world = World::new();
    let (bad, good) = (world.register("bad", "1"), world.register("good", "2"));
    let long = world.submit(spec("long", None));
    assert_eq!(world.start(good).0, long);
    let job = world.submit(spec("x", None));
    let (_, token) = world.start(bad);
    world.finish(token, Outcome::Failed);
    let from = |ms: u64| Now::both(100 + ms);
    for ms in (0..limits().elsewhere).step_by(500) {
        world.now = from(ms);
        world.sync(good, world.engine.worker_of(good).and_then(|w| w.assigned));
        assert_eq!(world.sync(bad, None), Response::Wanted(Wanted::Nothing));
        assert!(world.engine.next_deadline(world.now.steady).is_some());
    }
    world.now = from(limits().elsewhere);
    assert_eq!(world.start(bad).0, job, "the other one is busy for too long");
}

#[test]
fn a_worker_on_which_jobs_fail_that_succeed_elsewhere_is_set_aside_until_it_registers_again() {
    let mut world = World::new();
    let (bad, good) = (world.register("bad", "1"), world.register("good", "2"));
    for _ in 0..3 {
        world.submit(spec("x", None));
        let (_, token) = world.start(bad);
        world.finish(token, Outcome::Failed);
        world.now = Now::both(world.now.steady.0 + 100);
        let (_, token) = world.start(good);
        world.finish(token, Outcome::Succeeded);
    }
    let job = world.submit(spec("x", None));
    assert_eq!(world.sync(bad, None), Response::Wanted(Wanted::Nothing));
    let worker = world.engine.worker_of(bad).expect("a worker");
    let verdict = verdict(&Needs::default(), worker);
    assert!(!verdict.fits && verdict.reason.starts_with("3 jobs failed on bad and succeeded elsewhere"), "{verdict:?}");
    let again = world.register("bad", "1");
    assert_eq!(world.start(again).0, job);
}

fn for_two(name: &str) -> Box<JobSpec> {
    let mut spec = spec(name, None);
    spec.needs.workers = 2;
    spec
}

/// Two workers at a job for two, and its attempt.
fn two_at_work() -> (World, [SessionId; 2], JobId, Token) {
    let mut world = World::new();
    let sessions = [world.register("a", "1"), world.register("b", "2")];
    for session in sessions {
        assert_eq!(world.sync(session, None), Response::Wanted(Wanted::Nothing));
    }
    let job = world.submit(for_two("x"));
    let (_, token) = world.start(sessions[0]);
    assert_eq!(world.sync(sessions[1], None), Response::Wanted(Wanted::Run { job, token }), "it is told of it as well");
    (world, sessions, job, token)
}

#[test]
fn a_job_for_two_starts_on_both_at_once_and_wakes_the_one_that_waits() {
    let mut world = World::new();
    let (a, b) = (world.register("a", "1"), world.register("b", "2"));
    let job = world.submit(for_two("x"));
    assert_eq!(world.sync(a, None), Response::Wanted(Wanted::Nothing), "one alone does not start it");
    let event = Event::Synchronize { session: b, running: None, memory_free: 0, disk_free: 0, draining: false };
    let (response, effects) = world.engine.handle(world.now, event);
    let Response::Wanted(Wanted::Run { job: started, token }) = response else { panic!("{response:?}") };
    assert_eq!((started, token.number()), (job, 1));
    assert!(effects.contains(&Effect::Wake(a)), "{effects:?}");
    let attempt = world.engine.job(job).and_then(|job| job.attempt(token)).expect("an attempt");
    assert_eq!((attempt.rank("b"), attempt.rank("a"), attempt.rank("c"), attempt.size()), (Some(0), Some(1), None, 2));
}

#[test]
fn a_free_worker_is_kept_for_an_older_job_for_two_but_not_for_one_that_cannot_start() {
    let mut world = World::new();
    let (a, b) = (world.register("a", "1"), world.register("b", "2"));
    let first = world.submit(spec("long", None));
    let (_, busy) = world.start(b);
    let (pair, younger) = (world.submit(for_two("pair")), world.submit(spec("younger", None)));
    assert_eq!(world.sync(a, None), Response::Wanted(Wanted::Nothing), "it is kept for the pair");
    let worker = world.engine.worker_of(a).expect("a worker");
    assert_eq!(world.engine.kept_for(world.now, worker), Some(pair), "and says so");
    world.finish(busy, Outcome::Succeeded);
    assert!(matches!(world.state(first), JobState::Succeeded { .. }));
    let (started, token) = world.start(b);
    assert_eq!(started, pair);
    world.finish(token, Outcome::Succeeded);
    assert_eq!(world.start(a).0, younger);

    let mut world = World::new();
    let a = world.register("a", "1");
    world.submit(for_two("pair"));
    let younger = world.submit(spec("younger", None));
    assert_eq!(world.start(a).0, younger, "there is no second worker to wait for");
}

#[test]
fn nobody_is_woken_for_a_job_for_two_that_cannot_start_and_somebody_for_a_younger_one() {
    let mut world = World::new();
    let a = world.register("a", "1");
    world.submit(for_two("pair"));
    assert_eq!(world.sync(a, None), Response::Wanted(Wanted::Nothing));
    assert_eq!(world.engine.handle(world.now, Event::Tick).1, []);
    let failing = world.submit(spec("x", None));
    let (job, token) = world.start(a);
    assert_eq!(job, failing);
    world.finish(token, Outcome::Failed);
    assert_eq!(world.sync(a, None), Response::Wanted(Wanted::Nothing));
    world.now = Now::both(100);
    assert_eq!(world.engine.handle(world.now, Event::Tick).1, [Effect::Wake(a)], "its backoff is over");
}

#[test]
fn the_failure_of_any_ends_the_attempt_of_all_and_they_are_told_to_stop_at_once() {
    for (rank, outcome) in [(0, Outcome::Failed), (1, Outcome::Failed), (1, Outcome::Lost)] {
        let (mut world, [a, b], job, token) = two_at_work();
        let event = Event::Finish { session: [a, b][rank], token, outcome, message: "why".into() };
        let (_, effects) = world.engine.handle(world.now, event);
        assert!(effects.contains(&Effect::Wake(a)) && effects.contains(&Effect::Wake(b)), "{effects:?}");
        assert!(matches!(world.state(job), JobState::Queued { .. }));
        for session in [a, b] {
            let answer = world.sync(session, Some(token));
            assert!(matches!(answer, Response::Wanted(Wanted::Stop { at_once: true, .. })), "{answer:?}");
        }
    }
    let (mut world, _, job, token) = two_at_work();
    world.finish_as(token, 1, Outcome::OutOfMemory);
    assert!(matches!(world.state(job), JobState::Failed { reason, .. } if reason == "why 1"));
}

#[test]
fn the_first_of_two_ends_the_job_whenever_the_other_is_done() {
    for second in [Outcome::Succeeded, Outcome::Stopped] {
        let (mut world, [_, b], job, token) = two_at_work();
        assert_eq!(world.finish_as(token, 1, second), Response::Done);
        assert!(matches!(world.state(job), JobState::Running { .. }), "the first one still saves");
        assert_eq!(world.sync(b, None), Response::Wanted(Wanted::Nothing), "the second one is free");
        assert_eq!(world.finish_as(token, 0, Outcome::Succeeded), Response::Done);
        assert!(matches!(world.state(job), JobState::Succeeded { .. }));
    }
}

#[test]
fn who_lost_another_waits_for_its_word_and_if_all_did_the_attempt_has_failed() {
    let (mut world, [a, _], job, token) = two_at_work();
    world.finish_as(token, 0, Outcome::PeerLost);
    assert!(matches!(world.state(job), JobState::Running { .. }));
    assert_eq!(world.sync(a, None), Response::Wanted(Wanted::Nothing), "the first one is free");
    world.finish_as(token, 1, Outcome::OutOfMemory);
    assert!(matches!(world.state(job), JobState::Failed { reason, .. } if reason == "why 1"), "the cause is told");

    let (mut world, _, job, token) = two_at_work();
    world.finish_as(token, 1, Outcome::PeerLost);
    world.finish_as(token, 0, Outcome::PeerLost);
    assert!(matches!(world.state(job), JobState::Queued { .. }));
    assert_eq!(world.engine.job(job).expect("a job").failures, 1);
}

#[test]
fn losing_one_of_two_gives_the_job_back_and_both_reports_are_numbered_apart() {
    let (mut world, [a, b], job, token) = two_at_work();
    for session in [a, b] {
        let report = Event::Report { session, token, batch: 1, progress: None };
        assert_eq!(world.handle(report.clone()), Response::Batch { job, is_new: true });
        assert_eq!(world.handle(report), Response::Batch { job, is_new: false });
    }
    let c = world.register("c", "3");
    let stranger = Event::Report { session: c, token, batch: 1, progress: None };
    assert_eq!(world.handle(stranger), Response::Refused(Refusal::NotYours(token)));
    world.now = Now::both(LEASE - 1);
    world.sync(b, Some(token));
    world.now = Now::both(LEASE);
    world.handle(Event::Tick);
    assert_eq!(world.sync(a, Some(token)), Response::Refused(Refusal::StaleSession(a)));
    let answer = world.sync(b, Some(token));
    assert!(matches!(answer, Response::Wanted(Wanted::Stop { at_once: true, .. })), "{answer:?}");
    assert!(matches!(world.state(job), JobState::Queued { .. }));
    assert_eq!(world.engine.job(job).expect("a job").failures, 0);
}

#[test]
fn a_gpu_of_a_machine_with_too_little_memory_of_its_own_does_not_fit() {
    let mut world = World::new();
    let event = Event::Register {
        name: "a".into(),
        instance: "1".into(),
        platform: platform(DeviceClass::Cuda, 80),
        running: None,
    };
    world.handle(event);
    let worker = world.engine.workers().next().expect("a worker");
    let needs = |gib: u64| Needs { main_memory: gib << 30, ..Needs::default() };
    assert!(verdict(&needs(80), worker).fits);
    assert_eq!(verdict(&needs(92), worker).reason, "needs 92.0 GiB of main memory beside its GPU, a has 80.0");
}

#[derive(Debug, Clone)]
enum Act {
    Submit,
    SubmitForTwo,
    Cancel(usize),
    Register(usize),
    Sync(usize),
    Report(usize),
    Commit(usize, u64),
    Finish(usize, u32, Outcome),
    Pass(u64),
    Restart,
    /// Kinds of events, and whom they are about.
    Unstored(Vec<(u8, usize)>),
}

fn act() -> impl Strategy<Value = Act> {
    let outcome = prop_oneof![
        Just(Outcome::Succeeded),
        Just(Outcome::BadInput),
        Just(Outcome::Failed),
        Just(Outcome::Stopped),
        Just(Outcome::Lost),
        Just(Outcome::PeerLost)
    ];
    prop_oneof![
        2 => Just(Act::Submit),
        2 => Just(Act::SubmitForTwo),
        1 => (0..8usize).prop_map(Act::Cancel),
        2 => (0..3usize).prop_map(Act::Register),
        6 => (0..3usize).prop_map(Act::Sync),
        3 => (0..12usize).prop_map(Act::Report),
        2 => (0..12usize, 0..50u64).prop_map(|(t, s)| Act::Commit(t, s)),
        3 => (0..12usize, 0..3u32, outcome).prop_map(|(t, r, o)| Act::Finish(t, r, o)),
        3 => (1..LEASE).prop_map(Act::Pass),
        1 => Just(Act::Restart),
        2 => prop::collection::vec((0..8u8, 0..12usize), 1..6).prop_map(Act::Unstored),
    ]
}

fn finish(world: &World, token: Token, rank: u32, outcome: Outcome) -> Event {
    Event::Finish { session: world.session(token, rank), token, outcome, message: String::new() }
}

/// A batch of events that cannot be stored; returns the tokens that were given out in it.
fn unstored(world: &mut World, events: &[(u8, usize)], sessions: &[Option<SessionId>], token: Token) -> Vec<Token> {
    world.engine.settled();
    let jobs: Vec<Job> = world.engine.jobs().cloned().collect();
    let mut given = Vec::new();
    for &(kind, i) in events {
        let session = sessions[i % sessions.len()].unwrap_or(SessionId(u64::MAX));
        let event = match kind {
            0 => Event::Submit { spec: spec("x", Some("a key")) },
            1 => Event::Cancel { job: JobId(i as u64), reason: "r".into() },
            2 => Event::Leave { session },
            3 => Event::Report { session: world.session(token, 0), token, batch: 99, progress: Some(Box::default()) },
            4 => finish(world, token, 0, Outcome::Succeeded),
            5 => finish(world, token, i as u32 % 3, Outcome::PeerLost),
            6 => {
                let meeting = Meeting { addresses: vec!["a:1".into()], secret: vec![1] };
                Event::Offer { session: world.session(token, 0), token, meeting }
            }
            _ => Event::Synchronize { session, running: None, memory_free: 0, disk_free: 0, draining: false },
        };
        if let Response::Wanted(Wanted::Run { token, .. }) = world.handle(event) {
            given.push(token);
        }
    }
    world.engine.take_back(world.now);
    assert_eq!(world.engine.jobs().cloned().collect::<Vec<_>>(), jobs, "something of an unstored batch stayed");
    let known = |session: &SessionId| world.engine.worker_of(*session).is_some_and(|w| w.connected);
    let lost = sessions.iter().flatten().filter(|session| !known(session)).count();
    assert_eq!(lost, 0, "a session ended because of a write that failed");
    // A key of a job that is not there is free again; where it is there, it is a durable one's.
    given.retain(|token| world.engine.job_of(*token).is_none());
    given
}

/// Everything that must hold in every state that can be reached.
fn invariants(engine: &Engine, before: &BTreeMap<JobId, (bool, u64, usize)>) {
    for job in engine.jobs() {
        let ended = job.attempts.iter().filter(|a| a.end.is_none()).count();
        assert_eq!(ended, usize::from(job.current_token().is_some()), "open attempts are the current one: {job:?}");
        assert!(job.attempts.is_sorted_by(|a, b| a.token < b.token), "tokens grow: {job:?}");
        if let Some(&(was_final, step, attempts)) = before.get(&job.id) {
            assert!(!was_final || job.state.is_final(), "a final state was left: {job:?}");
            assert!(job.checkpoint().map_or(0, |a| a.step) >= step, "the checkpoint went back: {job:?}");
            assert!(job.attempts.len() >= attempts, "an attempt was forgotten: {job:?}");
        }
        let results =
            job.attempts.iter().filter(|a| a.end.as_ref().is_some_and(|e| e.outcome == Outcome::Succeeded)).count();
        assert!(results <= 1, "two results: {job:?}");
    }
    for id in before.keys() {
        assert!(engine.job(*id).is_some(), "job {id} was lost");
    }
    let mut wanted: Vec<(&str, Token)> = Vec::new();
    for job in engine.jobs() {
        let Some(attempt) = job.current_token().and_then(|token| job.attempt(token)) else { continue };
        assert_eq!(attempt.size() as usize, job.spec.needs.workers.max(1), "all start or none: {job:?}");
        assert!(attempt.holders().next().is_some(), "an attempt that nobody holds goes on: {job:?}");
        wanted.extend(attempt.holders().map(|worker| (worker, attempt.token)));
    }
    wanted.sort();
    let held: Vec<(&str, Token)> = engine.workers().filter_map(|w| Some((w.name.as_str(), w.assigned?))).collect();
    assert_eq!(held, wanted, "workers hold what attempts say, and nothing that is over");
}

/// Does what the effects ask for until nothing more is asked: a worker that is woken synchronises.
///
/// # Panics
/// They ask for ever: workers would be woken in vain, over and over.
fn settle(world: &mut World, mut effects: Vec<Effect>, running: &mut [Option<Token>; 3], tokens: &mut Vec<Token>) {
    for _ in 0..20 {
        let woken: Vec<SessionId> =
            effects.iter().filter_map(|e| if let Effect::Wake(session) = e { Some(*session) } else { None }).collect();
        if woken.is_empty() {
            return;
        }
        effects.clear();
        for session in woken {
            let known = world.engine.workers().find(|w| w.session == session).map(|w| w.name.clone());
            let Some(w) = known.and_then(|name| name[1..].parse::<usize>().ok()) else { continue };
            let event =
                Event::Synchronize { session, running: running[w], memory_free: 0, disk_free: 0, draining: false };
            let (response, more) = world.engine.handle(world.now, event);
            if let Response::Wanted(Wanted::Run { token, .. }) = response {
                running[w] = Some(token);
                tokens.push(token);
            }
            effects.extend(more);
            effects.extend(world.engine.handle(world.now, Event::Tick).1);
        }
    }
    panic!("workers are woken for ever");
}

proptest! {
    #[test]
    fn every_history_keeps_the_invariants(acts in prop::collection::vec(act(), 1..120)) {
        let mut world = World::new();
        let mut sessions: [Option<SessionId>; 3] = [None; 3];
        let mut running: [Option<Token>; 3] = [None; 3];
        let mut tokens: Vec<Token> = vec![Token(0)];
        let mut never_stored: Vec<Token> = Vec::new();
        for act in acts {
            let before = world.engine.jobs()
                .map(|j| (j.id, (j.state.is_final(), j.checkpoint().map_or(0, |a| a.step), j.attempts.len())))
                .collect();
            let pick = |i: usize| tokens[i % tokens.len()];
            match act {
                Act::Submit => { world.submit(spec("x", None)); }
                Act::SubmitForTwo => { world.submit(for_two("x")); }
                Act::Cancel(i) => { world.handle(Event::Cancel { job: JobId(i as u64), reason: "r".into() }); }
                Act::Register(w) => {
                    let event = Event::Register { name: format!("w{w}"), instance: format!("{w}"), platform: platform(DeviceClass::Cpu, 8), running: running[w] };
                    if let Response::Registered { session } = world.handle(event) { sessions[w] = Some(session); }
                }
                Act::Sync(w) => if let Some(session) = sessions[w] {
                    match world.sync(session, running[w]) {
                        Response::Wanted(Wanted::Run { token, .. }) => { running[w] = Some(token); tokens.push(token); }
                        Response::Wanted(Wanted::Stop { .. }) => {
                            if let Some(token) = running[w].take() {
                                let attempt = world.engine.jobs().find_map(|j| j.attempt(token));
                                let rank = attempt.and_then(|a| a.rank(&format!("w{w}"))).expect("its attempt");
                                world.finish_as(token, rank, Outcome::Stopped);
                            }
                        }
                        Response::Refused(_) => sessions[w] = None,
                        _ => {}
                    }
                },
                Act::Report(t) => {
                    let (session, token) = (world.session(pick(t), 0), pick(t));
                    world.handle(Event::Report { session, token, batch: 1, progress: None });
                }
                Act::Commit(t, step) => {
                    let artifact = Artifact { kind: "checkpoint".into(), name: format!("{step}"), digest: "d".into(), size: 1, step };
                    let (session, token) = (world.session(pick(t), 0), pick(t));
                    world.handle(Event::Commit { session, token, artifact });
                }
                Act::Finish(t, rank, outcome) => {
                    let token = pick(t);
                    let attempt = world.engine.jobs().find_map(|j| j.attempt(token));
                    let gone = |w: usize| attempt.is_none_or(|a| a.rank(&format!("w{w}")) == Some(rank));
                    let gone: Vec<usize> = (0..3).filter(|&w| running[w] == Some(token) && gone(w)).collect();
                    world.finish_as(token, rank, outcome);
                    for w in gone { running[w] = None; }
                }
                Act::Pass(ms) => { world.now = Now::both(world.now.steady.0 + ms); world.handle(Event::Tick); }
                Act::Restart => {
                    let jobs = world.engine.jobs().cloned().collect();
                    world.engine = Engine::new(limits(), jobs, world.now, [9; 32]);
                    sessions = [None; 3];
                    // Nobody ever had them.
                    never_stored.clear();
                }
                Act::Unstored(events) => {
                    // Sessions whose lease has ended are gone by themselves.
                    let mut live = sessions;
                    for session in &mut live {
                        *session = session.filter(|s| world.engine.worker_of(*s).is_some());
                    }
                    never_stored.extend(unstored(&mut world, &events, &live, pick(events.len())));
                }
            }
            let (_, effects) = world.engine.handle(world.now, Event::Tick);
            settle(&mut world, effects, &mut running, &mut tokens);
            prop_assert!(tokens.iter().all(|token| !never_stored.contains(token)), "a token was given twice");
            invariants(&world.engine, &before);
        }
    }
}

#[test]
fn a_batch_that_could_not_be_stored_leaves_no_trace_but_the_sessions() {
    let mut world = World::new();
    let held = world.submit(spec("held", None));
    let (a, b) = (world.register("a", "1"), world.register("b", "2"));
    let (_, token) = world.start(a);
    world.engine.settled();

    let key = world.submit(spec("unstored", Some("k")));
    let (_, unstored) = world.start(b);
    world.finish(token, Outcome::Failed);
    let c = world.register("c", "3");
    world.engine.take_back(world.now);

    assert!(world.engine.job(key).is_none(), "a job that was never stored is there");
    assert!(matches!(world.state(held), JobState::Running { token: now, .. } if *now == token));
    assert_eq!(world.sync(a, Some(token)), Response::Wanted(Wanted::GoOn));
    // What was given out and not stored is nobody's, and whoever began on it stops.
    let stop = world.sync(b, Some(unstored));
    assert!(matches!(stop, Response::Wanted(Wanted::Stop { at_once: true, .. })), "{stop:?}");
    assert_eq!(world.sync(c, None), Response::Wanted(Wanted::Nothing));
    // The key is free, the number is given again, the token is not.
    assert_eq!(world.submit(spec("again", Some("k"))), key);
    let (_, later) = world.start(b);
    assert!(later > unstored, "{later} was given before");
    assert_eq!(world.finish(token, Outcome::Succeeded), Response::Done);
}

#[test]
fn what_an_unreadable_job_had_is_never_given_again() {
    let mut world = World::new();
    let reserved = Reserved { job: JobId(7), token: Token(40), keys: vec![("k".into(), JobId(5))] };
    world.engine.reserve(reserved);
    assert_eq!(
        world.handle(Event::Submit { spec: spec("x", Some("k")) }),
        Response::Refused(Refusal::KeyReused(JobId(5)))
    );
    assert_eq!(world.submit(spec("x", None)), JobId(8));
    let a = world.register("a", "1");
    let (job, token) = world.start(a);
    assert_eq!((job, token.number()), (JobId(8), 41));
}
