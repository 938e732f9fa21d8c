//! An engine in its first moments, and short ways to tell it things.

use std::collections::BTreeMap;

use qlora_engine::*;

pub const LEASE: u64 = 1000;

pub fn limits() -> Limits {
    Limits { lease: LEASE, backoff: 100, max_backoff: 1000, elsewhere: 5000, max_lost: 4 }
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
    })
}

pub fn spec(name: &str, key: Option<&str>) -> Box<JobSpec> {
    Box::new(JobSpec {
        kind: JobKind::Train,
        name: name.into(),
        config_json: "{}".into(),
        config_hash: "hash".into(),
        files: Vec::new(),
        needs: Needs::default(),
        max_retries: 2,
        time_limit: None,
        checkpoints_to_keep: 0,
        idempotency_key: key.map(str::to_owned),
        traceparent: String::new(),
    })
}

pub const SEED: Seed = [7; 32];

pub struct World {
    pub engine: Engine,
    pub now: Now,
}

impl World {
    pub fn new() -> Self {
        Self { engine: Engine::new(limits(), Vec::new(), Now::both(0), SEED), now: Now::both(0) }
    }

    pub fn handle(&mut self, event: Event) -> Response {
        self.engine.handle(self.now, event).0
    }

    pub fn submit(&mut self, spec: Box<JobSpec>) -> JobId {
        match self.handle(Event::Submit { spec }) {
            Response::Submitted { job, .. } => job,
            other => panic!("{other:?}"),
        }
    }

    pub fn register(&mut self, name: &str, instance: &str) -> SessionId {
        let event = register(name, instance, None);
        match self.handle(event) {
            Response::Registered { session } => session,
            other => panic!("{other:?}"),
        }
    }

    pub fn sync(&mut self, session: SessionId, running: Option<Token>) -> Response {
        self.handle(Event::Synchronize { session, running, memory_free: None, disk_free: None, draining: false })
    }

    pub fn start(&mut self, session: SessionId) -> (JobId, Token) {
        match self.sync(session, None) {
            Response::Wanted(Wanted::Run { job, token }) => (job, token),
            other => panic!("{other:?}"),
        }
    }

    pub fn state(&self, job: JobId) -> &JobState {
        &self.engine.job(job).expect("a job").state
    }

    pub fn finish(&mut self, token: Token, outcome: Outcome) -> Response {
        self.finish_as(token, 0, outcome)
    }

    pub fn finish_as(&mut self, token: Token, rank: u32, outcome: Outcome) -> Response {
        let session = self.session(token, rank);
        self.handle(Event::Finish { session, token, outcome, message: format!("why {rank}") })
    }

    /// The session of the worker of `rank` in the attempt `token`; one that nobody has, where there is none.
    pub fn session(&self, token: Token, rank: u32) -> SessionId {
        let attempt = self.engine.jobs().find_map(|job| job.attempt(token));
        let is_it = |w: &&Worker| attempt.is_some_and(|a| a.rank(&w.name) == Some(rank));
        self.engine.workers().find(is_it).map_or(SessionId(u64::MAX), |w| w.session)
    }
}

pub fn for_two(name: &str) -> Box<JobSpec> {
    let mut spec = spec(name, None);
    spec.needs.workers = 2;
    spec
}

/// `name` comes, from the state folder `instance`, on a small CPU.
pub fn register(name: &str, instance: &str, running: Option<Token>) -> Event {
    let platform = platform(DeviceClass::Cpu, 8);
    Event::Register { name: name.into(), instance: instance.into(), platform, running }
}
