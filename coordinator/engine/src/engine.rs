//! The state and the one function that changes it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::event::{Effect, Event, Refusal, Response, Wanted};
use crate::ids::{JobId, Millis, SessionId, Token};
use crate::job::{Artifact, Attempt, AttemptEnd, Job, JobSpec, JobState, Outcome, Progress};
use crate::placement::verdict;
use crate::worker::{Platform, Worker};

/// Times, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A worker that is silent for this long has lost its attempt.
    pub lease: u64,
    /// Wait before the second attempt; doubles with each failure.
    pub backoff: u64,
    pub max_backoff: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { lease: 30_000, backoff: 2_000, max_backoff: 300_000 }
    }
}

/// All jobs and all workers.
#[derive(Debug)]
pub struct Engine {
    limits: Limits,
    jobs: BTreeMap<JobId, Job>,
    keys: HashMap<String, JobId>,
    /// Jobs that wait for a worker.
    queue: BTreeSet<JobId>,
    running: HashMap<Token, JobId>,
    workers: BTreeMap<String, Worker>,
    sessions: HashMap<SessionId, String>,
    next_token: u64,
    next_session: u64,
}

/// Effects of one event, as they come up.
type Effects = Vec<Effect>;

impl Engine {
    /// An engine over the jobs of an earlier one. Workers register again; running attempts have one lease from
    /// `now` on to be claimed, so that a restart is invisible to a job that goes on.
    pub fn new(limits: Limits, jobs: Vec<Job>, now: Millis) -> Self {
        let highest = |job: &Job| job.attempts.iter().map(|a| a.token.0).max().unwrap_or(0);
        let mut engine = Self {
            limits,
            next_token: jobs.iter().map(highest).max().unwrap_or(0) + 1,
            // Sessions of an earlier process must not be valid in this one.
            next_session: now.0,
            jobs: BTreeMap::new(),
            keys: HashMap::new(),
            queue: BTreeSet::new(),
            running: HashMap::new(),
            workers: BTreeMap::new(),
            sessions: HashMap::new(),
        };
        for job in jobs {
            engine.adopt(job, now);
        }
        engine
    }

    fn adopt(&mut self, job: Job, now: Millis) {
        if let Some(key) = &job.spec.idempotency_key {
            self.keys.insert(key.clone(), job.id);
        }
        match &job.state {
            JobState::Queued { .. } => drop(self.queue.insert(job.id)),
            JobState::Running { token, worker, .. } => {
                self.running.insert(*token, job.id);
                let absent = Worker {
                    name: worker.clone(),
                    instance: String::new(),
                    session: SessionId(0),
                    platform: Platform::unknown(),
                    lease_until: now.plus(self.limits.lease),
                    last_seen: now,
                    assigned: Some(*token),
                    waiting: false,
                    draining: false,
                    connected: false,
                };
                self.workers.insert(worker.clone(), absent);
            }
            _ => {}
        }
        self.jobs.insert(job.id, job);
    }

    pub fn job(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(&id)
    }

    /// All jobs, oldest first.
    pub fn jobs(&self) -> impl DoubleEndedIterator<Item = &Job> {
        self.jobs.values()
    }

    pub fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values()
    }

    /// The job that holds `token` now.
    pub fn job_of(&self, token: Token) -> Option<JobId> {
        self.running.get(&token).copied()
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The next time after `now` at which [`Event::Tick`] may change something.
    pub fn next_deadline(&self, now: Millis) -> Option<Millis> {
        let leases = self.workers.values().filter(|w| w.connected || w.assigned.is_some()).map(|w| w.lease_until);
        let waits = self.queue.iter().filter_map(|id| match self.jobs.get(id)?.state {
            JobState::Queued { not_before } => Some(not_before),
            _ => None,
        });
        // Jobs that may start already wait for a worker and not for time.
        leases.chain(waits.filter(|&t| t > now)).min()
    }

    /// Takes one event at time `now`.
    pub fn handle(&mut self, now: Millis, event: Event) -> (Response, Vec<Effect>) {
        let mut effects = Vec::new();
        let result = match event {
            Event::Submit { spec } => self.submit(now, *spec, &mut effects),
            Event::Cancel { job, reason } => self.cancel(now, job, reason, &mut effects),
            Event::Register { name, instance, platform, running } => {
                self.register(now, name, instance, *platform, running, &mut effects)
            }
            Event::Synchronize { session, running, memory_free, disk_free, draining } => {
                let seen = Seen { running, memory_free, disk_free, draining };
                self.synchronize(now, session, seen, &mut effects)
            }
            Event::Leave { session } => {
                self.leave(now, session, &mut effects);
                Ok(Response::Done)
            }
            Event::Report { token, batch, progress } => self.report(token, batch, progress.map(|p| *p), &mut effects),
            Event::Commit { token, artifact } => self.commit(token, artifact, &mut effects),
            Event::Finish { token, outcome, message } => self.finish(now, token, outcome, message, &mut effects),
            Event::Tick => self.tick(now, &mut effects),
        };
        match result {
            Ok(response) => (response, effects),
            Err(refusal) => (Response::Refused(refusal), effects),
        }
    }

    fn submit(&mut self, now: Millis, spec: JobSpec, effects: &mut Effects) -> Result<Response, Refusal> {
        if let Some(&known) = spec.idempotency_key.as_ref().and_then(|key| self.keys.get(key)) {
            let same = self
                .jobs
                .get(&known)
                .is_some_and(|job| job.spec.config_hash == spec.config_hash && job.spec.kind == spec.kind);
            return if same {
                Ok(Response::Submitted { job: known, created: false })
            } else {
                Err(Refusal::KeyReused(known))
            };
        }
        let id = JobId(self.jobs.last_key_value().map_or(0, |(id, _)| id.0) + 1);
        if let Some(key) = &spec.idempotency_key {
            self.keys.insert(key.clone(), id);
        }
        effects.push(record(Some(id), None, "submitted", spec.name.clone()));
        self.jobs.insert(id, Job::new(id, spec, now));
        self.queue.insert(id);
        effects.push(Effect::Save(id));
        self.wake_one_for(id, effects);
        Ok(Response::Submitted { job: id, created: true })
    }

    /// Wakes a worker that waits and fits; it takes the oldest job that fits it.
    ///
    /// A worker that was woken no longer waits, so that the next job wakes another one.
    fn wake_one_for(&mut self, id: JobId, effects: &mut Effects) {
        let Some(job) = self.jobs.get(&id) else { return };
        let free = |w: &&mut Worker| w.waiting && w.connected && w.assigned.is_none() && !w.draining;
        let idle = self.workers.values_mut().filter(free).find(|w| verdict(&job.spec.needs, w).fits);
        if let Some(worker) = idle {
            worker.waiting = false;
            effects.push(Effect::Wake(worker.session));
        }
    }

    /// A worker stopped waiting before it was answered; what it was woken for goes to another.
    fn leave(&mut self, now: Millis, session: SessionId, effects: &mut Effects) {
        if let Some(worker) = self.sessions.get(&session).and_then(|name| self.workers.get_mut(name)) {
            worker.waiting = false;
        }
        self.wake_for_oldest(now, effects);
    }

    fn wake_for_oldest(&mut self, now: Millis, effects: &mut Effects) {
        let ready = |id: &&JobId| matches!(self.jobs.get(id).map(|j| &j.state), Some(JobState::Queued { not_before }) if *not_before <= now);
        if let Some(id) = self.queue.iter().find(ready).copied() {
            self.wake_one_for(id, effects);
        }
    }

    fn cancel(&mut self, now: Millis, id: JobId, reason: String, effects: &mut Effects) -> Result<Response, Refusal> {
        let job = self.jobs.get_mut(&id).ok_or(Refusal::UnknownJob(id))?;
        match &mut job.state {
            JobState::Queued { .. } => {
                job.state = JobState::Cancelled { at: now, reason: reason.clone() };
                job.progress.phase = "cancelled".into();
                self.queue.remove(&id);
                effects.push(record(Some(id), None, "cancelled", reason));
            }
            JobState::Running { worker, stopping, .. } => {
                *stopping = Some(reason.clone());
                if let Some(worker) = self.workers.get(worker) {
                    effects.push(Effect::Wake(worker.session));
                }
                effects.push(record(Some(id), None, "stopping", reason));
            }
            ended => return Err(Refusal::JobEnded { job: id, state: word(ended) }),
        }
        effects.push(Effect::Save(id));
        Ok(Response::Done)
    }

    fn register(
        &mut self,
        now: Millis,
        name: String,
        instance: String,
        platform: Platform,
        running: Option<Token>,
        effects: &mut Effects,
    ) -> Result<Response, Refusal> {
        let mut assigned = None;
        if let Some(old) = self.workers.get(&name) {
            let stranger = !old.instance.is_empty() && old.instance != instance;
            if stranger && old.connected {
                return Err(Refusal::NameTaken { name });
            }
            self.sessions.remove(&old.session);
            assigned = old.assigned;
        }
        // A restarted worker no longer runs what it was given: its job need not wait for the lease to end.
        if assigned.is_some() && assigned != running {
            self.lose(now, &name, "its worker was restarted", effects);
            assigned = None;
        }
        let session = SessionId(self.next_session);
        self.next_session += 1;
        effects.push(record(None, Some(name.clone()), "registered", platform.device_name.clone()));
        let worker = Worker {
            name: name.clone(),
            instance,
            session,
            platform,
            lease_until: now.plus(self.limits.lease),
            last_seen: now,
            assigned,
            waiting: false,
            draining: false,
            connected: true,
        };
        self.workers.insert(name.clone(), worker);
        self.sessions.insert(session, name);
        Ok(Response::Registered { session })
    }

    fn synchronize(
        &mut self,
        now: Millis,
        session: SessionId,
        seen: Seen,
        effects: &mut Effects,
    ) -> Result<Response, Refusal> {
        let name = self.sessions.get(&session).cloned().ok_or(Refusal::StaleSession(session))?;
        let lease = self.limits.lease;
        let worker = self.workers.get_mut(&name).ok_or(Refusal::StaleSession(session))?;
        worker.lease_until = now.plus(lease);
        worker.last_seen = now;
        worker.platform.device_memory_free = seen.memory_free;
        worker.platform.disk_free = seen.disk_free;
        worker.draining = seen.draining;
        worker.waiting = false;
        let assigned = worker.assigned;
        let wanted = match (seen.running, assigned) {
            // An attempt that the engine no longer counts as this worker's must end.
            (Some(running), assigned) if assigned != Some(running) => {
                Wanted::Stop { reason: format!("attempt {running} is not current any more") }
            }
            (Some(running), _) => self.stop_or_go_on(running),
            // The assignment did not arrive, or the worker has not started on it: say it again.
            (None, Some(token)) => self.repeat(token),
            (None, None) => self.next_for(now, &name, effects),
        };
        if let Some(worker) = self.workers.get_mut(&name) {
            worker.waiting = wanted == Wanted::Nothing;
        }
        Ok(Response::Wanted(wanted))
    }

    fn stop_or_go_on(&self, token: Token) -> Wanted {
        let job = self.running.get(&token).and_then(|id| self.jobs.get(id));
        match job.map(|j| &j.state) {
            Some(JobState::Running { stopping: Some(reason), .. }) => Wanted::Stop { reason: reason.clone() },
            _ => Wanted::GoOn,
        }
    }

    fn repeat(&self, token: Token) -> Wanted {
        self.running.get(&token).map_or(Wanted::Nothing, |&job| Wanted::Run { job, token })
    }

    /// Gives the oldest waiting job that fits to `name`.
    fn next_for(&mut self, now: Millis, name: &str, effects: &mut Effects) -> Wanted {
        let Some(worker) = self.workers.get(name).filter(|w| !w.draining) else { return Wanted::Nothing };
        let ready = |job: &Job| matches!(job.state, JobState::Queued { not_before } if not_before <= now);
        let fits =
            |id: &&JobId| self.jobs.get(id).is_some_and(|job| ready(job) && verdict(&job.spec.needs, worker).fits);
        let Some(&id) = self.queue.iter().find(fits) else { return Wanted::Nothing };
        let token = Token(self.next_token);
        self.next_token += 1;
        self.queue.remove(&id);
        self.running.insert(token, id);
        if let Some(worker) = self.workers.get_mut(name) {
            worker.assigned = Some(token);
        }
        if let Some(job) = self.jobs.get_mut(&id) {
            job.state = JobState::Running { token, worker: name.to_owned(), stopping: None };
            job.progress.phase = "starting".into();
            job.attempts.push(Attempt { token, worker: name.to_owned(), started: now, batch: 0, end: None });
        }
        effects.push(record(Some(id), Some(name.to_owned()), "started", format!("attempt {token}")));
        effects.push(Effect::Save(id));
        Wanted::Run { job: id, token }
    }

    /// The job that holds `token`, for a change under it.
    fn current(&mut self, token: Token) -> Result<&mut Job, Refusal> {
        let id = *self.running.get(&token).ok_or(Refusal::StaleToken(token))?;
        self.jobs.get_mut(&id).ok_or(Refusal::StaleToken(token))
    }

    fn report(
        &mut self,
        token: Token,
        batch: u64,
        progress: Option<Progress>,
        effects: &mut Effects,
    ) -> Result<Response, Refusal> {
        let job = self.current(token)?;
        let id = job.id;
        let known = job.attempt_mut(token).map_or(0, |a| a.batch);
        if batch <= known {
            return Ok(Response::Batch { job: id, is_new: false });
        }
        if let Some(attempt) = job.attempt_mut(token) {
            attempt.batch = batch;
        }
        if let Some(mut progress) = progress {
            // Samples and the first evaluation of an earlier attempt stay.
            let mut samples = std::mem::take(&mut job.progress.samples);
            samples.retain(|old| !progress.samples.iter().any(|new| new.step == old.step));
            samples.append(&mut progress.samples);
            progress.samples = samples;
            progress.first_evaluation = progress.first_evaluation.or(job.progress.first_evaluation);
            progress.last_evaluation = progress.last_evaluation.or(job.progress.last_evaluation);
            job.progress = progress;
        }
        effects.push(Effect::Save(id));
        Ok(Response::Batch { job: id, is_new: true })
    }

    fn commit(&mut self, token: Token, artifact: Artifact, effects: &mut Effects) -> Result<Response, Refusal> {
        let job = self.current(token)?;
        let committed = job.checkpoint().map_or(0, |a| a.step);
        if artifact.kind == "checkpoint" && artifact.step < committed {
            return Err(Refusal::StepWentBack { step: artifact.step, committed });
        }
        let id = job.id;
        job.artifacts.retain(|a| !(a.kind == artifact.kind && a.name == artifact.name));
        effects.push(record(
            Some(id),
            None,
            "saved",
            format!("{} {} of step {}", artifact.kind, artifact.name, artifact.step),
        ));
        job.artifacts.push(artifact);
        effects.push(Effect::Save(id));
        Ok(Response::Done)
    }

    fn finish(
        &mut self,
        now: Millis,
        token: Token,
        outcome: Outcome,
        message: String,
        effects: &mut Effects,
    ) -> Result<Response, Refusal> {
        let job = self.current(token)?;
        let id = job.id;
        let JobState::Running { worker, .. } = &job.state else { return Err(Refusal::StaleToken(token)) };
        let worker = worker.clone();
        self.end_attempt(now, id, token, outcome, message, effects);
        if let Some(worker) = self.workers.get_mut(&worker).filter(|w| w.assigned == Some(token)) {
            worker.assigned = None;
        }
        Ok(Response::Done)
    }

    /// Ends the attempt `token` of job `id` and moves the job on.
    fn end_attempt(
        &mut self,
        now: Millis,
        id: JobId,
        token: Token,
        outcome: Outcome,
        message: String,
        effects: &mut Effects,
    ) {
        self.running.remove(&token);
        let limits = self.limits;
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if let Some(attempt) = job.attempt_mut(token) {
            attempt.end = Some(AttemptEnd { at: now, outcome, message: message.clone() });
        }
        if outcome == Outcome::Failed {
            job.failures += 1;
        }
        let next = next_state(job, now, outcome, message, limits);
        let (kind, text) = match &next {
            JobState::Succeeded { .. } => ("succeeded", String::new()),
            JobState::Failed { reason, .. } => ("failed", reason.clone()),
            JobState::Cancelled { reason, .. } => ("cancelled", reason.clone()),
            _ => (
                "requeued",
                job.attempts.last().and_then(|a| Some(a.end.as_ref()?.message.clone())).unwrap_or_default(),
            ),
        };
        job.progress.phase = word(&next).into();
        job.progress.seconds_left = None;
        job.state = next;
        let requeued = matches!(job.state, JobState::Queued { .. });
        effects.push(record(Some(id), None, kind, text));
        effects.push(Effect::Save(id));
        if requeued {
            self.queue.insert(id);
            self.wake_one_for(id, effects);
        }
    }

    /// The worker `name` has lost what it was given.
    fn lose(&mut self, now: Millis, name: &str, why: &str, effects: &mut Effects) {
        let Some(token) = self.workers.get_mut(name).and_then(|w| w.assigned.take()) else { return };
        if let Some(&id) = self.running.get(&token) {
            self.end_attempt(now, id, token, Outcome::Lost, why.to_owned(), effects);
        }
    }

    fn tick(&mut self, now: Millis, effects: &mut Effects) -> Result<Response, Refusal> {
        let ended = |w: &&Worker| w.lease_until <= now && (w.connected || w.assigned.is_some());
        let lost: Vec<String> = self.workers.values().filter(ended).map(|w| w.name.clone()).collect();
        for name in lost {
            if let Some(worker) = self.workers.get_mut(&name) {
                worker.connected = false;
                worker.waiting = false;
                self.sessions.remove(&worker.session);
            }
            effects.push(record(None, Some(name.clone()), "lost", "its lease ended".into()));
            self.lose(now, &name, "its worker was not heard of for a whole lease", effects);
        }
        self.wake_for_oldest(now, effects);
        Ok(Response::Done)
    }
}

struct Seen {
    running: Option<Token>,
    memory_free: u64,
    disk_free: u64,
    draining: bool,
}

/// Where a running job goes when its attempt has ended.
fn next_state(job: &Job, now: Millis, outcome: Outcome, message: String, limits: Limits) -> JobState {
    let stopping = match &job.state {
        JobState::Running { stopping, .. } => stopping.clone(),
        _ => None,
    };
    match (outcome, stopping) {
        (Outcome::Succeeded, _) => JobState::Succeeded { at: now },
        (_, Some(reason)) => JobState::Cancelled { at: now, reason },
        (Outcome::BadInput | Outcome::OutOfMemory, None) => JobState::Failed { at: now, reason: message },
        (Outcome::Failed, None) if job.failures > job.spec.max_retries => {
            JobState::Failed { at: now, reason: format!("{message} (after {} failed attempts)", job.failures) }
        }
        (Outcome::Failed, None) => {
            let doubled = limits.backoff << (job.failures - 1).min(20);
            JobState::Queued { not_before: now.plus(doubled.min(limits.max_backoff)) }
        }
        (Outcome::Lost | Outcome::Stopped, None) => JobState::Queued { not_before: now },
    }
}

fn word(state: &JobState) -> &'static str {
    match state {
        JobState::Queued { .. } => "queued",
        JobState::Running { .. } => "running",
        JobState::Succeeded { .. } => "succeeded",
        JobState::Failed { .. } => "failed",
        JobState::Cancelled { .. } => "cancelled",
    }
}

fn record(job: Option<JobId>, worker: Option<String>, kind: &'static str, text: String) -> Effect {
    Effect::Record { job, worker, kind, text }
}
