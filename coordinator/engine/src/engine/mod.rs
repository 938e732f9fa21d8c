//! The state and the one function that changes it.

mod attempts;
mod durable;
mod jobs;
mod next;
mod reservation;
mod secrets;
mod time_limit;
mod wakes;
mod workers;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

pub use self::durable::Reserved;
use self::jobs::Jobs;
use self::next::Ending;
pub use self::reservation::Reservation;
use self::secrets::Secrets;
pub use self::secrets::Seed;
use self::workers::Seen;
use crate::attempt::Attempt;
use crate::event::{Effect, Event, JournalKind, Refusal, Response};
use crate::ids::{JobId, Millis, Now, SessionId, Token};
use crate::job::{Job, JobSpec, JobState};
use crate::worker::Worker;

/// Times, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A worker that is silent for this long has lost its attempt.
    pub lease: u64,
    /// Wait before the second attempt; doubles with each failure.
    pub backoff: u64,
    pub max_backoff: u64,
    /// How long a job that failed on a worker waits for another one that fits.
    pub elsewhere: u64,
    /// Workers that may be lost one after another with a job that saves nothing; then it fails.
    pub max_lost: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lease: 30_000,
            backoff: 2_000,
            max_backoff: 300_000,
            elsewhere: 600_000,
            max_lost: 6,
        }
    }
}

/// All jobs and all workers.
#[derive(Debug)]
pub struct Engine {
    limits: Limits,
    jobs: Jobs,
    keys: HashMap<String, JobId>,
    /// Jobs that wait for a worker.
    queue: BTreeSet<JobId>,
    running: HashMap<Token, JobId>,
    /// When attempts reach the time limit of their job, on the steady clock.
    time_limits: HashMap<Token, Millis>,
    workers: BTreeMap<String, Worker>,
    sessions: HashMap<SessionId, String>,
    /// Who was woken since [`Self::settled`] and has not asked for work since.
    woken: BTreeSet<String>,
    /// Attempts from before the start of the coordinator.
    inherited: HashSet<Token>,
    next_job: u64,
    /// The number of the next attempt among all.
    next_attempt: u64,
    secrets: Secrets,
}

/// Effects of one event, as they come up.
type Effects = Vec<Effect>;

impl Engine {
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

    /// The worker whose session it is.
    pub fn worker_of(&self, session: SessionId) -> Option<&Worker> {
        self.workers.get(self.sessions.get(&session)?)
    }

    /// The job that holds `token` now.
    pub fn job_of(&self, token: Token) -> Option<JobId> {
        self.running.get(&token).copied()
    }

    /// How many jobs that wait were submitted before `id`.
    pub fn queued_before(&self, id: JobId) -> usize {
        self.queue.range(..id).count()
    }

    /// Whether anything needs the artifact that job `of` has let go of: a job has it, or a twin of
    /// that job runs and may be about to commit it, since the same request makes the same bytes.
    pub fn may_need(&self, digest: &str, of: JobId) -> bool {
        let hash = self.jobs.get(&of).map(|job| &job.spec.config_hash);
        let is_twin = |job: &Job| {
            job.id != of && job.current_token().is_some() && Some(&job.spec.config_hash) == hash
        };
        self.jobs
            .values()
            .any(|job| is_twin(job) || job.digests().any(|needed| needed == digest))
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Whether anybody's lease is to be watched.
    pub fn watches_leases(&self) -> bool {
        self.workers
            .values()
            .any(|w| w.connected || w.assigned.is_some())
    }

    /// The next time after `now`, on the steady clock, at which [`Event::Tick`] may change
    /// something.
    pub fn next_deadline(&self, now: Millis) -> Option<Millis> {
        let leases = self
            .workers
            .values()
            .filter(|w| w.connected || w.assigned.is_some())
            .map(|w| w.lease_until);
        let waits = self
            .queue
            .iter()
            .filter_map(|id| match self.jobs.get(id)?.state {
                JobState::Queued { not_before } => {
                    Some([not_before, not_before.plus(self.limits.elsewhere)])
                }
                _ => None,
            });
        // Jobs that may start already wait for a worker and not for time.
        let waits = waits.flatten().filter(|&t| t > now);
        leases
            .chain(waits)
            .chain(self.time_limits.values().copied())
            .min()
    }

    /// Takes one event at time `now`.
    pub fn handle(&mut self, now: Now, event: Event) -> (Response, Vec<Effect>) {
        let mut effects = Vec::new();
        let result = match event {
            Event::Submit { spec } => self.submit(now, *spec, &mut effects),
            Event::Cancel { job, reason } => self.cancel(now, job, reason, &mut effects),
            Event::Register {
                name,
                instance,
                platform,
                running,
            } => self.register(now, name, instance, *platform, running, &mut effects),
            Event::Synchronize {
                session,
                running,
                memory_free,
                disk_free,
                draining,
            } => {
                let seen = Seen {
                    running,
                    memory_free,
                    disk_free,
                    draining,
                };
                self.synchronize(now, session, seen, &mut effects)
            }
            Event::Leave { session } => {
                self.leave(now, session, &mut effects);
                Ok(Response::Done)
            }
            Event::RemoveWorker { name } => self.remove_worker(name, &mut effects),
            Event::Report {
                session,
                token,
                batch,
                progress,
            } => self.report((session, token), batch, progress.map(|p| *p), &mut effects),
            Event::Commit {
                session,
                token,
                artifact,
            } => self.commit((session, token), artifact, &mut effects),
            Event::Finish {
                session,
                token,
                outcome,
                message,
                code,
            } => {
                let ending = Ending {
                    code,
                    ..Ending::new(outcome, message)
                };
                self.finish(now, (session, token), ending, &mut effects)
            }
            Event::Offer {
                session,
                token,
                meeting,
            } => self.offer((session, token), meeting, &mut effects),
            Event::Tick => self.tick(now, &mut effects),
            Event::Stalled { ms } => {
                self.extend_leases(ms);
                Ok(Response::Done)
            }
        };
        match result {
            Ok(response) => (response, effects),
            Err(refusal) => (Response::Refused(refusal), effects),
        }
    }

    fn submit(
        &mut self,
        now: Now,
        spec: JobSpec,
        effects: &mut Effects,
    ) -> Result<Response, Refusal> {
        if let Some(&known) = spec
            .idempotency_key
            .as_ref()
            .and_then(|key| self.keys.get(key))
        {
            let same = self
                .jobs
                .get(&known)
                .is_some_and(|job| job.spec.is_same_request(&spec));
            return if same {
                Ok(Response::Submitted {
                    job: known,
                    created: false,
                })
            } else {
                Err(Refusal::KeyReused(known))
            };
        }
        let id = JobId(self.next_job);
        self.next_job += 1;
        if let Some(key) = &spec.idempotency_key {
            self.keys.insert(key.clone(), id);
        }
        effects.push(record(
            Some(id),
            None,
            JournalKind::Submitted,
            spec.name.clone(),
        ));
        self.jobs.insert(Job::new(id, spec, now));
        self.queue.insert(id);
        effects.push(Effect::Save(id));
        self.wake_one_for(now, id, effects);
        Ok(Response::Submitted {
            job: id,
            created: true,
        })
    }

    fn cancel(
        &mut self,
        now: Now,
        id: JobId,
        reason: String,
        effects: &mut Effects,
    ) -> Result<Response, Refusal> {
        let job = self.jobs.get_mut(&id).ok_or(Refusal::UnknownJob(id))?;
        match &mut job.state {
            JobState::Queued { .. } => {
                job.state = JobState::Cancelled {
                    at: now.wall,
                    reason: reason.clone(),
                };
                job.progress.phase = "cancelled".into();
                let kept_others_free = job.spec.needs.workers > 1;
                self.queue.remove(&id);
                effects.push(record(Some(id), None, JournalKind::Cancelled, reason));
                if kept_others_free {
                    self.wake_all(effects);
                }
            }
            JobState::Running { .. } => {
                self.ask_to_stop(id, reason, effects);
                return Ok(Response::Done);
            }
            ended => {
                return Err(Refusal::JobEnded {
                    job: id,
                    state: word(ended),
                });
            }
        }
        effects.push(Effect::Save(id));
        Ok(Response::Done)
    }

    /// Tells the workers of a running job to save and stop; the job is cancelled once they have.
    fn ask_to_stop(&mut self, id: JobId, reason: String, effects: &mut Effects) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let JobState::Running {
            token, stopping, ..
        } = &mut job.state
        else {
            return;
        };
        *stopping = Some(reason.clone());
        let token = *token;
        let holders = job.attempt(token).into_iter().flat_map(Attempt::holders);
        let sessions = holders.filter_map(|name| Some(self.workers.get(name)?.session));
        effects.extend(sessions.map(Effect::Wake));
        effects.push(record(Some(id), None, JournalKind::Stopping, reason));
        effects.push(Effect::Save(id));
    }

    fn tick(&mut self, now: Now, effects: &mut Effects) -> Result<Response, Refusal> {
        let ended =
            |w: &&Worker| w.lease_until <= now.steady && (w.connected || w.assigned.is_some());
        let lost: Vec<String> = self
            .workers
            .values()
            .filter(ended)
            .map(|w| w.name.clone())
            .collect();
        let anyone = !lost.is_empty();
        for name in lost {
            if let Some(worker) = self.workers.get_mut(&name) {
                worker.connected = false;
                worker.waiting = false;
                self.sessions.remove(&worker.session);
            }
            effects.push(record(
                None,
                Some(name.clone()),
                JournalKind::Lost,
                "its lease ended".into(),
            ));
            self.lose(
                now,
                &name,
                "its worker was not heard of for a whole lease",
                effects,
            );
        }
        if anyone {
            // A job that several were kept free for may now be one for which there are too few.
            self.wake_all(effects);
        }
        self.stop_overdue(now, effects);
        self.wake_for_oldest(now, effects);
        Ok(Response::Done)
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

fn record(job: Option<JobId>, worker: Option<String>, kind: JournalKind, text: String) -> Effect {
    Effect::Record {
        job,
        worker,
        kind,
        text,
    }
}
