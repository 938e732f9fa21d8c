//! Workers come, renew their leases, and are given work.

use std::collections::BTreeSet;

use super::choice::Choice;
use super::state::Engine;
use crate::attempt::{Attempt, Holder};
use crate::event::{Effect, Effects, JournalKind, Refusal, Response, Wanted};
use crate::ids::{JobId, Now, SessionId, Token};
use crate::job::{AfterStop, JobState};
use crate::worker::{Platform, Worker};

/// What a worker says of itself when it renews its lease.
pub(super) struct Seen {
    pub running: Option<Token>,
    pub memory_free: Option<u64>,
    pub disk_free: Option<u64>,
    pub models: Option<BTreeSet<String>>,
    pub draining: bool,
}

impl Seen {
    /// `worker` has said it, and has heard of its session; it has yet to be given work.
    fn note(self, worker: &mut Worker) {
        worker.heard = true;
        worker.platform.device_memory_free = self.memory_free;
        worker.platform.disk_free = self.disk_free;
        if let Some(models) = self.models {
            worker.platform.models = models;
        }
        worker.draining = self.draining;
        (worker.waiting, worker.woken_at) = (false, None);
    }
}

/// Who comes, and what it shows for being who it says.
pub(super) struct Coming {
    pub name: String,
    pub instance: String,
    pub previous: Option<SessionId>,
    pub running: Option<Token>,
}

impl Engine {
    pub(super) fn register(
        &mut self,
        now: Now,
        coming: Coming,
        platform: Platform,
        effects: &mut Effects,
    ) -> Result<Response, Refusal> {
        let old = self.succeeded_by(&coming)?.cloned();
        let Coming {
            name,
            instance,
            previous,
            running,
        } = coming;
        let mut assigned = old.as_ref().and_then(|old| old.assigned);
        if let Some(old) = &old {
            self.sessions.remove(&old.session);
        }
        // A restarted worker no longer runs what it was given: its job need not wait for the lease
        // to end.
        if assigned.is_some() && assigned != running {
            if let Some(old) = old {
                self.replaced.entry(name.clone()).or_insert(old);
            }
            self.lose(now, &name, "its worker was restarted", effects);
            assigned = None;
        }
        let session = self.new_session();
        effects.push(Effect::record(
            None,
            Some(name.clone()),
            JournalKind::Registered,
            platform.device_name.clone(),
        ));
        let drained = self.drains().get(&name).cloned();
        let worker = Worker {
            name: name.clone(),
            instance,
            session,
            follows: previous,
            heard: false,
            platform,
            lease_until: now.steady.plus(self.limits.lease),
            last_seen: now.wall,
            assigned,
            waiting: false,
            woken_at: None,
            draining: false,
            drained,
            connected: true,
            attributed: Default::default(),
        };
        self.workers.insert(worker);
        self.sessions.insert(session, name);
        Ok(Response::Registered { session })
    }

    /// The worker whose place `coming` takes; none where nobody has its name.
    fn succeeded_by(&self, coming: &Coming) -> Result<Option<&Worker>, Refusal> {
        let Some(old) = self.workers.get(&coming.name) else {
            return Ok(None);
        };
        let name = coming.name.clone();
        // One that holds an attempt from before a restart of the coordinator has a lease to come
        // back in.
        let is_there = old.connected || old.assigned.is_some();
        if is_there && !old.instance.is_empty() && old.instance != coming.instance {
            return Err(Refusal::NameTaken { name });
        }
        if is_there && !old.is_succeeded_by(coming.previous, coming.running) {
            return Err(Refusal::IdentityTaken { name });
        }
        Ok(Some(old))
    }

    /// A session that is not in use.
    fn new_session(&mut self) -> SessionId {
        loop {
            let session = self.secrets.session();
            if !self.sessions.contains_key(&session) {
                return session;
            }
        }
    }

    pub(super) fn synchronize(
        &mut self,
        now: Now,
        session: SessionId,
        seen: Seen,
        effects: &mut Effects,
    ) -> Result<Response, Refusal> {
        let name = self
            .sessions
            .get(&session)
            .cloned()
            .ok_or(Refusal::StaleSession(session))?;
        let running = seen.running;
        let lease_until = now.steady.plus(self.limits.lease);
        let mut worker = self
            .workers
            .get_mut(&name)
            .ok_or(Refusal::StaleSession(session))?;
        (worker.lease_until, worker.last_seen) = (lease_until, now.wall);
        let leaves = seen.draining && !worker.draining;
        seen.note(&mut worker);
        let assigned = worker.assigned;
        drop(worker);
        self.woken.remove(&name);
        if leaves {
            // A job that several were kept free for may now be one for which there are too few.
            self.wake_all(now, effects);
        }
        let wanted = match (running, assigned) {
            // An attempt that the engine no longer counts as this worker's must end.
            (Some(running), assigned) if assigned != Some(running) => Wanted::Stop {
                reason: "the attempt is not current any more".into(),
                at_once: true,
                resumes: false,
            },
            (Some(running), _) => self.stop_or_go_on(running),
            // The assignment did not arrive, or the worker has not started on it: say it again.
            (None, Some(token)) => self.repeat(token),
            (None, None) => self.start_next(now, &name, effects),
        };
        if let Some(mut worker) = self.workers.get_mut(&name) {
            worker.waiting = wanted == Wanted::Nothing;
        }
        Ok(Response::Wanted(wanted))
    }

    fn stop_or_go_on(&self, token: Token) -> Wanted {
        let job = self.running.get(&token).and_then(|id| self.jobs.get(id));
        match job.map(|j| &j.state) {
            Some(JobState::Running {
                stopping: Some(stop),
                ..
            }) => Wanted::Stop {
                reason: stop.reason.clone(),
                at_once: false,
                resumes: stop.then == AfterStop::Queued,
            },
            _ => Wanted::GoOn,
        }
    }

    fn repeat(&self, token: Token) -> Wanted {
        self.running
            .get(&token)
            .map_or(Wanted::Nothing, |&job| Wanted::Run { job, token })
    }

    /// A worker that is away leaves the list; one that comes back under its name is new, and not
    /// drained.
    pub(super) fn remove_worker(
        &mut self,
        name: String,
        effects: &mut Effects,
    ) -> Result<Response, Refusal> {
        let worker = self.workers.get(&name);
        let is_drained = self.drains().contains_key(&name);
        if worker.is_none() && !is_drained {
            return Err(Refusal::UnknownWorker(name));
        }
        if worker.is_some_and(|w| w.connected || w.assigned.is_some()) {
            return Err(Refusal::WorkerPresent(name));
        }
        self.workers.remove(&name);
        if is_drained {
            self.set_drain(&name, None, effects);
        }
        effects.push(Effect::record(
            None,
            Some(name),
            JournalKind::Removed,
            String::new(),
        ));
        Ok(Response::Done)
    }

    fn start_next(&mut self, now: Now, name: &str, effects: &mut Effects) -> Wanted {
        let free = self.workers.get(name).filter(|w| w.takes_work());
        match free.map(|worker| self.choice_for(now, worker)) {
            Some(Choice::Start(id, others)) => self.start(now, id, name, others, effects),
            Some(Choice::KeptFor(reservation)) => {
                self.queue.keep_for(reservation.job);
                Wanted::Nothing
            }
            _ => Wanted::Nothing,
        }
    }

    fn start(
        &mut self,
        now: Now,
        id: JobId,
        first: &str,
        others: Vec<String>,
        effects: &mut Effects,
    ) -> Wanted {
        let token = Token::new(self.next_attempt, self.secrets.half_of_token());
        self.next_attempt += 1;
        self.queue.remove(id);
        self.running.insert(token, id);
        for name in others.iter().map(String::as_str).chain([first]) {
            let Some(mut worker) = self.workers.get_mut(name) else {
                continue;
            };
            worker.assigned = Some(token);
            if name == first {
                worker.waiting = false;
            } else {
                drop(worker);
                self.wake(now, name, effects);
            }
        }
        let with = if others.is_empty() {
            String::new()
        } else {
            format!(" with {}", others.join(", "))
        };
        let holder = |name: &str| {
            let worker = self.workers.get(name);
            Holder {
                worker: name.to_owned(),
                instance: worker.map(|w| w.instance.clone()).unwrap_or_default(),
                session: worker.map(|w| w.session),
            }
        };
        let attempt = Attempt::new(
            token,
            holder(first),
            others.iter().map(|name| holder(name)).collect(),
            now.wall,
        );
        let (number, limit) = self.jobs.get(&id).map_or((1, None), |job| {
            (job.attempts.len() + 1, job.spec.time_limit)
        });
        self.limit_time(now, token, limit, 0);
        self.move_on(id, |job| {
            job.state = JobState::Running {
                token,
                worker: first.to_owned(),
                stopping: None,
            };
            job.progress.phase = "starting".into();
            job.attempts.push(attempt);
        });
        effects.push(Effect::record(
            Some(id),
            Some(first.to_owned()),
            JournalKind::Started,
            format!("attempt {number}{with}"),
        ));
        effects.push(Effect::Save(id));
        Wanted::Run { job: id, token }
    }
}
