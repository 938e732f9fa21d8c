//! Workers, a coordinator over its disk, and what has to be remembered to judge them.

use std::collections::{BTreeMap, BTreeSet};

use qlora_engine::*;

use super::acts::Submission;
use super::{rules, terms};
use crate::world::*;

/// Jobs of one owner that may run, and that may wait, at one time.
pub const MAX_RUNNING: u64 = 2;
pub const MAX_QUEUED: u64 = 3;

/// A worker as it sees itself.
pub struct Machine {
    pub name: &'static str,
    pub instance: u32,
    platform: Platform,
    pub session: Option<SessionId>,
    /// The session that it was given last, in its state folder.
    pub given: Option<SessionId>,
    pub running: Option<Token>,
    pub draining: bool,
    /// It was told to end what it runs.
    pub stops: bool,
    /// What it was answered last, if its call is held since.
    pub held: Option<Wanted>,
    /// Until when the coordinator is to know its session; none once it has to be forgotten.
    pub lease: Option<u64>,
}

/// What was acknowledged, apart from the engine that acknowledged it.
#[derive(Default)]
pub struct Facts {
    pub jobs: BTreeSet<JobId>,
    pub keys: BTreeMap<String, (JobId, String)>,
    /// Jobs as they were when they had ended.
    pub ended: BTreeMap<JobId, Job>,
    /// Jobs that do another one again and were not looked at yet, with that one.
    pub retries: BTreeMap<JobId, JobId>,
    /// The greatest step of a checkpoint that was taken.
    pub checkpoints: BTreeMap<JobId, u64>,
    /// Tokens that somebody was given, and those that were drawn for nothing.
    pub tokens: Vec<Token>,
    pub in_vain: BTreeSet<Token>,
    /// Workers that an operator has drained, and the queue by its name.
    pub drained: BTreeSet<String>,
    /// What jobs come after, by what was submitted.
    pub after: BTreeMap<JobId, After>,
    /// Whether jobs that have ended, deleted ones included, have succeeded.
    pub succeeded: BTreeMap<JobId, bool>,
    /// How often what happened, to tell whether histories get anywhere.
    pub seen: BTreeMap<&'static str, u32>,
}

impl Facts {
    pub fn see(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }
}

pub struct History {
    pub world: World,
    pub machines: Vec<Machine>,
    pub facts: Facts,
    /// What was said of attempts and jobs.
    pub said: Vec<Event>,
}

fn machine(
    name: &'static str,
    device: DeviceClass,
    label: Option<&str>,
    models: &[&str],
) -> Machine {
    let mut platform = *platform(device, 8);
    platform.models = models.iter().map(|&model| model.to_owned()).collect();
    platform
        .labels
        .extend(label.map(|label| (label.to_owned(), "yes".to_owned())));
    platform.host = if name < "w2" { "one" } else { "other" }.to_owned();
    Machine {
        name,
        instance: 1,
        platform,
        session: None,
        given: None,
        running: None,
        draining: false,
        stops: false,
        held: None,
        lease: None,
    }
}

impl History {
    pub fn new() -> Self {
        let machines = vec![
            machine("w0", DeviceClass::Cpu, None, &[]),
            machine("w1", DeviceClass::Cpu, None, &["many"]),
            machine("w2", DeviceClass::Cpu, Some("fast"), &["many", "one"]),
            machine("w3", DeviceClass::Cuda, None, &[]),
        ];
        Self {
            world: World::limited(Some(MAX_RUNNING), Some(MAX_QUEUED)),
            machines,
            facts: Facts::default(),
            said: Vec::new(),
        }
    }

    pub fn now(&self) -> u64 {
        self.world.now.steady.0
    }

    /// Something is said; then the engine looks about, whoever it wakes asks, and all is judged.
    pub fn say(&mut self, event: Event) -> Response {
        self.said.push(event.clone());
        let waiting = waiting_before(&self.world, &event);
        let is_away = names_one_that_is_away(&self.world, &event);
        let (response, effects) = self.world.act(event.clone());
        terms::check_queue_limit(waiting, &response);
        self.facts.note(&event, &response, &effects);
        if is_away && matches!(response, Response::Submitted { created: true, .. }) {
            self.facts.see("a job comes after one that is away");
        }
        self.settle(effects);
        response
    }

    /// Does what effects ask for until nothing more is asked.
    ///
    /// # Panics
    /// They ask forever: workers would wake each other in vain, over and over.
    pub fn settle(&mut self, mut effects: Vec<Effect>) {
        for _ in 0..50 {
            let due = self.world.act(Event::Tick).1;
            self.facts.note_effects(&due);
            effects.extend(due);
            let woken: Vec<SessionId> = effects.drain(..).filter_map(woken).collect();
            if woken.is_empty() {
                return rules::check(self);
            }
            for session in woken {
                let holds = |m: &Machine| m.session == Some(session) && m.held.is_some();
                if let Some(w) = self.machines.iter().position(holds) {
                    effects.extend(self.ask(w));
                }
            }
        }
        panic!("workers are woken forever");
    }

    /// The worker synchronizes, and does what it is told but for stopping, which it puts off.
    pub fn ask(&mut self, w: usize) -> Vec<Effect> {
        let (response, effects) = self.exchange(w);
        let machine = &mut self.machines[w];
        machine.held = None;
        match response {
            Response::Wanted(Wanted::Run { token, .. }) => machine.running = Some(token),
            Response::Wanted(Wanted::Stop { .. }) => machine.stops = true,
            Response::Wanted(wanted) => machine.held = Some(wanted),
            Response::Refused(Refusal::StaleSession(_)) => machine.session = None,
            other => panic!("{other:?}"),
        }
        effects
    }

    /// One call of the worker, whose answer does not reach it.
    pub fn exchange(&mut self, w: usize) -> (Response, Vec<Effect>) {
        let (now, machine) = (self.now(), &mut self.machines[w]);
        let Some(session) = machine.session else {
            return (Response::Done, Vec::new());
        };
        let (running, draining) = (machine.running, machine.draining);
        let event = Event::Synchronize {
            session,
            running,
            memory_free: None,
            disk_free: None,
            models: None,
            draining,
        };
        let (response, effects) = self.world.act(event);
        if matches!(response, Response::Wanted(_)) {
            machine.lease = Some(now + LEASE);
        }
        self.facts.note_effects(&effects);
        if let Response::Wanted(Wanted::Run { job, token }) = response {
            rules::check_assignment(self, w, job, token);
        }
        (response, effects)
    }

    /// The worker asks, and whoever is woken by it asks too.
    pub fn sync(&mut self, w: usize) {
        if self.machines[w].session.is_some() {
            let effects = self.ask(w);
            self.settle(effects);
        }
    }

    pub fn register(&mut self, w: usize) {
        let machine = &self.machines[w];
        let event = Event::Register {
            name: machine.name.into(),
            instance: machine.instance.to_string(),
            previous: machine.given,
            platform: Box::new(machine.platform.clone()),
            running: machine.running,
        };
        let (response, effects) = self.world.act(event);
        let (now, machine) = (self.now(), &mut self.machines[w]);
        match response {
            Response::Registered { session } => {
                machine.session = Some(session);
                machine.given = Some(session);
                machine.held = None;
                machine.lease = Some(now + LEASE);
            }
            // Only a new state folder makes it a stranger.
            Response::Refused(Refusal::NameTaken { .. }) => {
                let known = self
                    .world
                    .engine
                    .workers()
                    .find(|w| w.name == machine.name)
                    .expect("the one before");
                assert_ne!(
                    known.instance,
                    machine.instance.to_string(),
                    "a worker is refused its own name"
                );
                self.facts.see("a stranger is refused");
            }
            // It comes without its attempt, and what it was given last was not stored with that.
            Response::Refused(Refusal::IdentityTaken { .. }) => {
                let known = self
                    .world
                    .engine
                    .workers()
                    .find(|w| w.name == machine.name)
                    .expect("the one before");
                assert!(
                    !known.connected
                        && known.assigned.is_some()
                        && known.assigned != machine.running
                        && known.follows != machine.given,
                    "a worker is refused its own place"
                );
                machine.session = None;
            }
            other => panic!("{other:?}"),
        }
        self.settle(effects);
    }

    /// Its process ends, and what it ran with it.
    pub fn crash(&mut self, w: usize, is_seen: bool) {
        if is_seen {
            self.break_off(w);
        }
        let machine = &mut self.machines[w];
        (
            machine.session,
            machine.running,
            machine.held,
            machine.stops,
        ) = (None, None, None, false);
    }

    pub fn break_off(&mut self, w: usize) {
        let machine = &mut self.machines[w];
        if let (Some(session), Some(_)) = (machine.session, machine.held.take()) {
            let effects = self.world.act(Event::Leave { session }).1;
            self.settle(effects);
        }
    }

    /// It is `ms` later; the engine looks about at every deadline on the way.
    pub fn pass(&mut self, ms: u64) {
        let until = self.now() + ms;
        while let Some(at) = self
            .world
            .engine
            .next_deadline(self.world.now.steady)
            .filter(|at| at.0 <= until)
        {
            assert!(at > self.world.now.steady, "a deadline is over and stays");
            self.world.now = Now::both(at.0);
            self.settle(Vec::new());
        }
        self.world.now = Now::both(until);
        rules::check_that_time_alone_changes_nothing(self);
        self.settle(Vec::new());
    }

    /// The worker of `rank` in the attempt, and what it would say.
    pub fn finish(&mut self, token: Token, rank: u32, outcome: Outcome, with_result: bool) {
        let session = self.world.session(token, rank);
        if with_result && rank == 0 && outcome == Outcome::Succeeded {
            self.hand_in(session, token);
        }
        let job = self.world.engine.job_of(token).map(|id| self.world.job(id));
        let lacks = job.is_some_and(|job| job.missing_result().is_some())
            && outcome == Outcome::Succeeded
            && rank == 0;
        let name = self
            .world
            .engine
            .workers()
            .find(|w| w.session == session)
            .map(|w| w.name.clone());
        let answer = self.say(Event::Finish {
            session,
            token,
            outcome,
            message: "why".into(),
            code: String::new(),
        });
        assert!(
            !lacks || answer != Response::Done,
            "a success without a result was taken"
        );
        // Whatever it was answered, it has let go, and asks anew.
        let is_it = |m: &&mut Machine| m.running == Some(token) && name.as_deref() == Some(m.name);
        for machine in self.machines.iter_mut().filter(is_it) {
            (machine.running, machine.stops, machine.held) = (None, false, None);
        }
    }

    /// Hands in what the job of the attempt is for.
    fn hand_in(&mut self, session: SessionId, token: Token) {
        let kind = self
            .world
            .engine
            .job_of(token)
            .map(|id| self.world.job(id).spec.kind);
        match kind {
            Some(JobKind::Train) => drop(self.say(Event::Commit {
                session,
                token,
                artifact: artifact(ArtifactKind::Adapter, 1),
            })),
            Some(JobKind::Eval) => {
                let progress = Progress {
                    scores: Some(Scores::default()),
                    ..Progress::default()
                };
                drop(self.say(Event::Report {
                    session,
                    token,
                    batch: 99,
                    progress: Some(Box::new(progress)),
                }));
            }
            _ => {}
        }
    }

    /// A worker that was told to stop does.
    pub fn obey(&mut self, w: usize) {
        let machine = &mut self.machines[w];
        machine.stops = false;
        let (Some(token), name) = (machine.running.take(), machine.name) else {
            return;
        };
        let attempt = self.world.engine.jobs().find_map(|job| job.attempt(token));
        if let Some(rank) = attempt.and_then(|attempt| attempt.rank(name)) {
            self.finish(token, rank, Outcome::Stopped, false);
        }
    }

    pub fn restart(&mut self, away: u64) {
        self.world.now = Now::both(self.now() + away);
        self.world.restart();
        terms::check_shares(&self.world);
        for machine in &mut self.machines {
            (machine.held, machine.lease) = (None, None);
        }
        self.settle(Vec::new());
    }

    pub fn stall(&mut self, ms: u64) {
        self.world.now = Now::both(self.now() + ms);
        for machine in &mut self.machines {
            machine.lease = machine.lease.map(|at| at + ms);
        }
        let effects = self.world.act(Event::Stalled { ms }).1;
        self.settle(effects);
    }
}

pub fn job_of(submission: &Submission) -> Box<JobSpec> {
    let mut spec = spec("x");
    (spec.kind, spec.max_retries, spec.checkpoints_to_keep) =
        (submission.kind, submission.retries, submission.keep);
    spec.needs.workers = submission.workers;
    spec.needs.labels.extend(
        submission
            .label
            .map(|label| (label.to_owned(), "yes".to_owned())),
    );
    spec.needs.model = submission.model.map(str::to_owned);
    spec.time_limit = submission.limit;
    spec.priority = submission.priority;
    spec.idempotency_key = submission.key.map(|key| key.to_string());
    spec.owner = submission.owner.into();
    let after = submission.after.iter();
    spec.after = After {
        jobs: after.map(|&job| JobId(job as u64)).collect(),
        any: submission.after_any,
    };
    // Of a request with a key only this is compared, so all that makes it another is in it.
    let request = (submission.kind, submission.workers, &spec.after);
    spec.config_hash = format!("{request:?}");
    spec
}

/// How many jobs of whoever submits one wait, where somebody does.
fn waiting_before(world: &World, event: &Event) -> Option<u64> {
    let owner = match event {
        Event::Submit { spec } => &spec.owner,
        Event::Retry { owner, .. } => owner,
        _ => return None,
    };
    Some(terms::count(&world.engine, owner).waiting)
}

/// Whether a job is to come after one that lies on the disk alone.
fn names_one_that_is_away(world: &World, event: &Event) -> bool {
    let Event::Submit { spec } = event else {
        return false;
    };
    let mut after = spec.after.jobs.iter();
    after.any(|id| world.disk.jobs.contains_key(id) && world.engine.job(*id).is_none())
}

fn woken(effect: Effect) -> Option<SessionId> {
    match effect {
        Effect::Wake(session) => Some(session),
        _ => None,
    }
}
