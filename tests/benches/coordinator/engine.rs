//! The engine alone: what an event takes as workers and waiting jobs grow. Nothing is stored or sent.

use std::hint::black_box;
use std::time::Instant;

use qlora_engine::{
    DeviceClass, Engine, Event, JobId, JobSpec, Limits, Now, Outcome, Platform, Progress, Response,
    SessionId, Token, Wanted,
};

use crate::arguments::Growth;
use crate::report::Report;

/// Workers or waiting jobs, from few to as many as are asked for.
const SIZES: [usize; 4] = [100, 1_000, 10_000, 100_000];
/// The time of every event: no lease ends.
const NOW: Now = Now {
    steady: qlora_engine::Millis(1_000_000),
    wall: qlora_engine::Millis(1_000_000),
};

pub fn run(wanted: &Growth, report: &mut Report) {
    for size in SIZES.into_iter().filter(|size| *size <= wanted.most) {
        // The last of the workers waits, and the others run a job each.
        let mut busy = Fleet::new(size, Limits::default());
        let spare = busy.sessions[size - 1];
        let step = time(wanted.times, |i| busy.report(0, i as u64 + 1));
        report.row(&format!("a report, {size} workers"), step, "µs");
        let life = time(wanted.times, |_| busy.life(spare));
        report.row(&format!("the life of a job, {size} workers"), life, "µs");
        let mut limited = Fleet::new(3, one_each());
        for _ in 0..size {
            limited.submit();
        }
        let spare = limited.sessions[2];
        let idle = time(wanted.times, |_| drop(limited.synchronize(spare, None)));
        let what = format!("an idle worker, {size} waiting jobs of a user at its limit");
        report.row(&what, idle, "µs");
        let last = JobId(limited.jobs);
        let place = time(wanted.times, |_| {
            black_box(limited.engine.queued_before(last));
        });
        report.row(
            &format!("the place of the last of {size} jobs"),
            place,
            "µs",
        );
    }
}

fn one_each() -> Limits {
    Limits {
        max_running_per_user: Some(1),
        ..Limits::default()
    }
}

/// Microseconds of one call.
fn time(times: usize, mut call: impl FnMut(usize)) -> f64 {
    let begin = Instant::now();
    (0..times).for_each(&mut call);
    begin.elapsed().as_secs_f64() * 1e6 / times as f64
}

/// An engine and its workers.
struct Fleet {
    engine: Engine,
    sessions: Vec<SessionId>,
    tokens: Vec<Token>,
    /// The last job.
    jobs: u64,
}

impl Fleet {
    /// All but the last of `workers` run a job, as far as `limits` let them; none waits.
    fn new(workers: usize, limits: Limits) -> Self {
        let mut fleet = Self {
            engine: Engine::new(limits, Vec::new(), NOW, [7; 32]),
            sessions: Vec::new(),
            tokens: Vec::new(),
            jobs: 0,
        };
        for i in 0..workers {
            let session = fleet.register(format!("w{i:06}"));
            fleet.sessions.push(session);
            if i + 1 < workers {
                fleet.submit();
                if let Wanted::Run { token, .. } = fleet.synchronize(session, None) {
                    fleet.tokens.push(token);
                }
            }
        }
        fleet
    }

    /// As the driver does after each batch: what is due is done, and all is durable.
    fn handle(&mut self, event: Event) -> Response {
        let (response, _) = self.engine.handle(NOW, event);
        self.engine.handle(NOW, Event::Tick);
        self.engine.settled();
        self.engine.put_ended_away();
        black_box(self.engine.next_deadline(NOW.steady));
        black_box(self.engine.watches_leases());
        response
    }

    fn register(&mut self, name: String) -> SessionId {
        let event = Event::Register {
            instance: name.clone(),
            name,
            previous: None,
            platform: Box::new(platform()),
            running: None,
        };
        match self.handle(event) {
            Response::Registered { session } => session,
            other => panic!("{other:?}"),
        }
    }

    fn submit(&mut self) -> JobId {
        let spec = Box::new(JobSpec::noop("noop"));
        match self.handle(Event::Submit { spec }) {
            Response::Submitted { job, .. } => {
                self.jobs = job.0;
                job
            }
            other => panic!("{other:?}"),
        }
    }

    fn synchronize(&mut self, session: SessionId, running: Option<Token>) -> Wanted {
        let event = Event::Synchronize {
            session,
            running,
            memory_free: None,
            disk_free: None,
            models: None,
            draining: false,
        };
        match self.handle(event) {
            Response::Wanted(wanted) => wanted,
            other => panic!("{other:?}"),
        }
    }

    /// A job from its submission to its end, on the worker that waits.
    fn life(&mut self, session: SessionId) {
        self.synchronize(session, None);
        self.submit();
        let Wanted::Run { token, .. } = self.synchronize(session, None) else {
            panic!("the worker that waits was given nothing")
        };
        let event = Event::Finish {
            session,
            token,
            outcome: Outcome::Succeeded,
            message: String::new(),
            code: String::new(),
        };
        let response = self.handle(event);
        assert!(matches!(response, Response::Done), "{response:?}");
    }

    /// The worker `worker` reports its `batch`th step.
    fn report(&mut self, worker: usize, batch: u64) {
        let progress = Progress {
            phase: "training".into(),
            step: batch,
            loss: Some(1.0),
            ..Progress::default()
        };
        let event = Event::Report {
            session: self.sessions[worker],
            token: self.tokens[worker],
            batch,
            progress: Some(Box::new(progress)),
        };
        let is_new = matches!(self.handle(event), Response::Batch { is_new: true, .. });
        assert!(is_new, "a report that was there already");
    }
}

fn platform() -> Platform {
    Platform {
        device: DeviceClass::Cpu,
        device_name: "none".into(),
        device_memory: 1 << 34,
        device_memory_free: None,
        compute_capability: String::new(),
        driver: String::new(),
        cpu_model: String::new(),
        cpu_cores: 2,
        memory: 1 << 34,
        disk_free: None,
        bf16: false,
        flash_attention: false,
        os: String::new(),
        labels: Default::default(),
        version: String::new(),
        host: String::new(),
        device_id: String::new(),
        models: Default::default(),
    }
}
