//! An engine over a disk, and short ways to tell it things.

use std::collections::{BTreeMap, BTreeSet};

use qlora_engine::*;

pub const LEASE: u64 = 1000;

pub fn limits() -> Limits {
    Limits {
        lease: LEASE,
        backoff: 100,
        max_backoff: 1000,
        elsewhere: 5000,
        head_start: 200,
        max_lost: 4,
        ..Limits::default()
    }
}

pub fn platform(device: DeviceClass, gib: u64) -> Box<Platform> {
    Box::new(Platform {
        device,
        device_name: "a device".into(),
        device_memory: gib << 30,
        device_memory_free: None,
        compute_capability: String::new(),
        driver: String::new(),
        cpu_model: String::new(),
        cpu_cores: 2,
        memory: gib << 30,
        disk_free: None,
        bf16: false,
        flash_attention: false,
        os: "linux".into(),
        labels: BTreeMap::new(),
        version: "0".into(),
        host: String::new(),
        device_id: String::new(),
        models: BTreeSet::new(),
    })
}

/// A job of one worker that anyone can take.
pub fn spec(name: &str) -> Box<JobSpec> {
    Box::new(JobSpec {
        kind: JobKind::Train,
        config_json: "{}".into(),
        config_hash: "hash".into(),
        max_retries: 2,
        ..JobSpec::noop(name)
    })
}

pub fn keyed(name: &str, key: &str) -> Box<JobSpec> {
    Box::new(JobSpec {
        idempotency_key: Some(key.to_owned()),
        ..*spec(name)
    })
}

/// A job that `owner` has submitted.
pub fn of(owner: &str, spec: Box<JobSpec>) -> Box<JobSpec> {
    Box::new(JobSpec {
        owner: owner.into(),
        ..*spec
    })
}

/// A job that comes after `jobs`; with `any` after any end of theirs.
pub fn after(jobs: &[JobId], any: bool) -> Box<JobSpec> {
    let jobs = jobs.to_vec();
    Box::new(JobSpec {
        after: After { jobs, any },
        ..*spec("after")
    })
}

pub fn for_two(name: &str) -> Box<JobSpec> {
    let mut spec = spec(name);
    spec.needs.workers = 2;
    spec
}

pub fn artifact(kind: ArtifactKind, step: u64) -> Artifact {
    Artifact {
        kind,
        name: format!("{kind}-{step}"),
        digest: format!("{kind}{step}"),
        size: 1,
        step,
    }
}

/// `name` comes, from the state folder `instance`, on a small CPU.
pub fn register(name: &str, instance: &str, running: Option<Token>) -> Event {
    presenting(None, (name, instance), running)
}

/// As [`register`], by who was given the session `previous` last.
pub fn presenting(
    previous: Option<SessionId>,
    (name, instance): (&str, &str),
    running: Option<Token>,
) -> Event {
    let platform = platform(DeviceClass::Cpu, 8);
    Event::Register {
        name: name.into(),
        instance: instance.into(),
        previous,
        platform,
        running,
    }
}

pub fn synchronize(session: SessionId, running: Option<Token>) -> Event {
    Event::Synchronize {
        session,
        running,
        memory_free: None,
        disk_free: None,
        models: None,
        draining: false,
    }
}

pub const SEED: Seed = [7; 32];

/// What a store would hold: it learns of jobs by [`Effect::Save`] and [`Effect::Remove`] alone, and
/// of drains by [`Effect::SaveDrain`].
#[derive(Debug, Default)]
pub struct Disk {
    pub jobs: BTreeMap<JobId, Job>,
    drains: BTreeMap<String, Drain>,
    reserved: Reserved,
    /// Of the coordinators that are started on it.
    pub limits: Limits,
}

impl Disk {
    pub fn write(&mut self, engine: &Engine, effects: &[Effect]) {
        // A job that was saved and removed by the events of one batch is only removed.
        for effect in effects {
            if let Effect::Remove(id) = effect {
                self.jobs.remove(id);
            }
            if let Effect::SaveDrain { worker, drain } = effect {
                self.drains.remove(worker);
                self.drains
                    .extend(drain.clone().map(|drain| (worker.clone(), drain)));
            }
            let Effect::Save(id) = effect else { continue };
            let job = engine.job(*id).expect("a job that is saved is there");
            self.reserved.job = self.reserved.job.max(*id);
            self.reserved.token = job
                .attempts
                .iter()
                .map(|a| a.token)
                .fold(self.reserved.token, Ord::max);
            self.jobs.insert(*id, job.clone());
        }
    }

    /// A coordinator that is started on it: of ended jobs it reads no more than the briefs.
    pub fn start(&self, now: Now, seed: Seed) -> Engine {
        let live = self.jobs.values().filter(|job| Ended::of(job).is_none());
        let mut engine = Engine::new(self.limits, live.cloned().collect(), now, seed);
        engine.adopt_ended(self.jobs.values().filter_map(Ended::of).collect());
        engine.reserve(self.reserved.clone());
        engine.adopt_drains(self.drains.clone());
        engine
    }

    /// # Panics
    /// The engine knows something of a job or of a drain that a restart would not.
    pub fn holds_all_of(&self, engine: &Engine) {
        let queue = engine.queue_drain().cloned();
        let mut drains = engine.drains().clone();
        drains.extend(queue.map(|drain| (Engine::QUEUE.to_owned(), drain)));
        assert_eq!(drains, self.drains, "drains");
        let at_hand = self.jobs.values().filter(|job| !is_away(engine, job.id));
        let (known, stored): (Vec<&Job>, Vec<&Job>) = (engine.jobs().collect(), at_hand.collect());
        // NaN is not equal to itself.
        assert!(
            known == stored || format!("{known:?}") == format!("{stored:?}"),
            "known {known:#?}\nstored {stored:#?}"
        );
    }
}

/// Whether the job has ended, as the engine knows, and lies on the disk alone.
fn is_away(engine: &Engine, job: JobId) -> bool {
    !engine.away(&Event::RemoveJob { job }).is_empty()
}

pub struct World {
    pub engine: Engine,
    pub disk: Disk,
    pub now: Now,
    starts: u8,
    /// What the state folders of workers hold: the session that each was given last.
    given: BTreeMap<(String, String), SessionId>,
}

/// A job that runs on one worker.
pub struct Running {
    pub session: SessionId,
    pub job: JobId,
    pub token: Token,
}

impl World {
    pub fn new() -> Self {
        Self::seeded(SEED)
    }

    pub fn seeded(seed: Seed) -> Self {
        Self::with(limits(), seed)
    }

    /// One in which each user may ask for so much.
    pub fn limited(max_running: Option<u64>, max_queued: Option<u64>) -> Self {
        let limits = Limits {
            max_running_per_user: max_running,
            max_queued_per_user: max_queued,
            ..limits()
        };
        Self::with(limits, SEED)
    }

    fn with(limits: Limits, seed: Seed) -> Self {
        let now = Now::both(0);
        let disk = Disk {
            limits,
            ..Disk::default()
        };
        Self {
            engine: Engine::new(limits, Vec::new(), now, seed),
            disk,
            now,
            starts: 0,
            given: BTreeMap::new(),
        }
    }

    /// `spec` runs on the worker `a`.
    pub fn running(spec: Box<JobSpec>) -> (Self, Running) {
        let mut world = Self::new();
        let job = world.submit(spec);
        let session = world.register("a", "1");
        let (started, token) = world.start(session);
        assert_eq!(started, job);
        (
            world,
            Running {
                session,
                job,
                token,
            },
        )
    }

    /// Handles an event and stores what it leads to, as the driver does.
    pub fn act(&mut self, event: Event) -> (Response, Vec<Effect>) {
        self.recall(&event);
        let (response, effects) = self.engine.handle(self.now, event);
        self.disk.write(&self.engine, &effects);
        self.engine.settled();
        self.disk.holds_all_of(&self.engine);
        (response, effects)
    }

    pub fn handle(&mut self, event: Event) -> Response {
        self.act(event).0
    }

    /// Handles an event that is not stored.
    pub fn unstored(&mut self, event: Event) -> Response {
        self.recall(&event);
        self.engine.handle(self.now, event).0
    }

    /// Brings the ended jobs to hand that `event` needs, as the driver does.
    fn recall(&mut self, event: &Event) {
        for id in self.engine.away(event) {
            self.engine.recall(self.disk.jobs[&id].clone());
        }
    }

    /// What was not stored is taken back.
    pub fn take_back(&mut self) {
        self.engine.take_back(self.now);
        self.disk.holds_all_of(&self.engine);
    }

    /// The coordinator ends and is started again on what it has stored.
    pub fn restart(&mut self) {
        self.starts += 1;
        self.engine = self.disk.start(self.now, [self.starts; 32]);
    }

    /// It is `ms` later, and the engine looks about.
    pub fn pass(&mut self, ms: u64) -> Vec<Effect> {
        self.now = Now {
            steady: self.now.steady.plus(ms),
            wall: self.now.wall.plus(ms),
        };
        self.act(Event::Tick).1
    }

    pub fn submit(&mut self, spec: Box<JobSpec>) -> JobId {
        match self.handle(Event::Submit { spec }) {
            Response::Submitted { job, .. } => job,
            other => panic!("{other:?}"),
        }
    }

    pub fn register(&mut self, name: &str, instance: &str) -> SessionId {
        self.register_with(name, instance, None)
    }

    /// As [`Self::register`], while the attempt `running` goes on.
    pub fn register_with(
        &mut self,
        name: &str,
        instance: &str,
        running: Option<Token>,
    ) -> SessionId {
        let folder = (name.to_owned(), instance.to_owned());
        let previous = self.given.get(&folder).copied();
        match self.handle(presenting(previous, (name, instance), running)) {
            Response::Registered { session } => {
                self.given.insert(folder, session);
                session
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn sync(&mut self, session: SessionId, running: Option<Token>) -> Response {
        self.handle(synchronize(session, running))
    }

    pub fn start(&mut self, session: SessionId) -> (JobId, Token) {
        match self.sync(session, None) {
            Response::Wanted(Wanted::Run { job, token }) => (job, token),
            other => panic!("{other:?}"),
        }
    }

    pub fn job(&self, job: JobId) -> &Job {
        let away = || {
            self.disk
                .jobs
                .get(&job)
                .filter(|_| is_away(&self.engine, job))
        };
        self.engine.job(job).or_else(away).expect("a job")
    }

    /// All jobs, those included that are away.
    pub fn ids(&self) -> BTreeSet<JobId> {
        let away = self
            .disk
            .jobs
            .keys()
            .filter(|id| is_away(&self.engine, **id));
        let at_hand = self.engine.jobs().map(|job| job.id);
        at_hand.chain(away.copied()).collect()
    }

    pub fn state(&self, job: JobId) -> &JobState {
        &self.job(job).state
    }

    /// The first worker says how the attempt ended; one that has succeeded has committed its
    /// adapter.
    pub fn finish(&mut self, token: Token, outcome: Outcome) -> Response {
        if outcome == Outcome::Succeeded {
            let session = self.session(token, 0);
            self.handle(Event::Commit {
                session,
                token,
                artifact: artifact(ArtifactKind::Adapter, 1),
            });
        }
        self.finish_as(token, 0, outcome)
    }

    pub fn finish_as(&mut self, token: Token, rank: u32, outcome: Outcome) -> Response {
        let session = self.session(token, rank);
        self.handle(Event::Finish {
            session,
            token,
            outcome,
            message: format!("why {rank}"),
            code: String::new(),
        })
    }

    /// The session of the worker of `rank` in the attempt `token`; one that nobody has, where there
    /// is none.
    pub fn session(&self, token: Token, rank: u32) -> SessionId {
        let attempt = self.engine.jobs().find_map(|job| job.attempt(token));
        let is_it = |w: &&Worker| attempt.is_some_and(|a| a.rank(&w.name) == Some(rank));
        self.engine
            .workers()
            .find(is_it)
            .map_or(SessionId(u64::MAX), |w| w.session)
    }
}
