//! Workers come, renew their leases, and are given work.

use super::{Effects, Engine, record};
use crate::event::{Effect, Refusal, Response, Wanted};
use crate::ids::{JobId, Millis, SessionId, Token};
use crate::job::{Attempt, Job, JobState};
use crate::placement::{Team, team, verdict};
use crate::worker::{Platform, Worker};

impl Engine {
    pub(super) fn register(
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

    pub(super) fn synchronize(
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
        let leaves = seen.draining && !worker.draining;
        worker.draining = seen.draining;
        worker.waiting = false;
        let assigned = worker.assigned;
        if leaves {
            // A job that several were kept free for may now be one for which there are too few.
            self.wake_all(effects);
        }
        let wanted = match (seen.running, assigned) {
            // An attempt that the engine no longer counts as this worker's must end.
            (Some(running), assigned) if assigned != Some(running) => {
                Wanted::Stop { reason: format!("attempt {running} is not current any more"), at_once: true }
            }
            (Some(running), _) => self.stop_or_go_on(running),
            // The assignment did not arrive, or the worker has not started on it: say it again.
            (None, Some(token)) => self.repeat(token),
            (None, None) => self.start_next(now, &name, effects),
        };
        if let Some(worker) = self.workers.get_mut(&name) {
            worker.waiting = wanted == Wanted::Nothing;
        }
        Ok(Response::Wanted(wanted))
    }

    fn stop_or_go_on(&self, token: Token) -> Wanted {
        let job = self.running.get(&token).and_then(|id| self.jobs.get(id));
        match job.map(|j| &j.state) {
            Some(JobState::Running { stopping: Some(reason), .. }) => {
                Wanted::Stop { reason: reason.clone(), at_once: false }
            }
            _ => Wanted::GoOn,
        }
    }

    fn repeat(&self, token: Token) -> Wanted {
        self.running.get(&token).map_or(Wanted::Nothing, |&job| Wanted::Run { job, token })
    }

    /// The oldest job that waits and may start with `worker`, and those who take it with it.
    ///
    /// A job that wants several comes before younger ones too: where enough fit and some are busy, `worker` stays free.
    pub(super) fn next_for(&self, now: Millis, worker: &Worker) -> Option<(JobId, Vec<String>)> {
        let ready = |job: &&Job| matches!(job.state, JobState::Queued { not_before } if not_before <= now);
        let queued = self.queue.iter().filter_map(|id| self.jobs.get(id)).filter(ready);
        for job in queued.filter(|job| verdict(&job.spec.needs, worker).fits) {
            match team(&job.spec.needs, worker, self.workers.values()) {
                Team::Complete(others) => return Some((job.id, others)),
                Team::Busy => return None,
                Team::TooSmall => {}
            }
        }
        None
    }

    fn start_next(&mut self, now: Millis, name: &str, effects: &mut Effects) -> Wanted {
        let free = self.workers.get(name).filter(|w| !w.draining);
        match free.and_then(|worker| self.next_for(now, worker)) {
            Some((id, others)) => self.start(now, id, name, others, effects),
            None => Wanted::Nothing,
        }
    }

    fn start(&mut self, now: Millis, id: JobId, first: &str, others: Vec<String>, effects: &mut Effects) -> Wanted {
        let token = Token(self.next_token);
        self.next_token += 1;
        self.queue.remove(&id);
        self.running.insert(token, id);
        for name in others.iter().map(String::as_str).chain([first]) {
            let Some(worker) = self.workers.get_mut(name) else { continue };
            worker.assigned = Some(token);
            worker.waiting = false;
            if name != first {
                effects.push(Effect::Wake(worker.session));
            }
        }
        let with = if others.is_empty() { String::new() } else { format!(" with {}", others.join(", ")) };
        if let Some(job) = self.jobs.get_mut(&id) {
            job.state = JobState::Running { token, worker: first.to_owned(), stopping: None };
            job.progress.phase = "starting".into();
            job.attempts.push(Attempt::new(token, first.to_owned(), others, now));
        }
        effects.push(record(Some(id), Some(first.to_owned()), "started", format!("attempt {token}{with}")));
        effects.push(Effect::Save(id));
        Wanted::Run { job: id, token }
    }
}

/// What a worker says of itself when it renews its lease.
pub(super) struct Seen {
    pub running: Option<Token>,
    pub memory_free: u64,
    pub disk_free: u64,
    pub draining: bool,
}
