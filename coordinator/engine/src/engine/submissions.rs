//! Jobs are submitted and cancelled.

use super::state::Engine;
use crate::attempt::Attempt;
use crate::event::{Effect, Effects, JournalKind, Refusal, Response};
use crate::ids::{JobId, Now};
use crate::job::{AfterStop, Job, JobSpec, JobState, Stop};

impl Engine {
    pub(super) fn submit(
        &mut self,
        now: Now,
        spec: JobSpec,
        effects: &mut Effects,
    ) -> Result<Response, Refusal> {
        if let Some(job) = self.known(&spec)? {
            return Ok(Response::Submitted {
                job,
                created: false,
            });
        }
        self.may_queue(&spec.owner)?;
        let waits_for = self.to_wait_for(&spec.after)?;
        let id = JobId(self.next_job);
        self.next_job += 1;
        if let Some(key) = &spec.idempotency_key {
            self.keys.insert(key.clone(), id);
        }
        effects.push(Effect::record(
            Some(id),
            None,
            JournalKind::Submitted,
            spec.name.clone(),
        ));
        let job = Job {
            waits_for,
            ..Job::new(id, spec, now)
        };
        self.queue.insert(&job);
        self.shares.add(&job);
        self.dependents.insert(&job);
        self.jobs.insert(job);
        effects.push(Effect::Save(id));
        self.wake_one_for(now, id, effects);
        Ok(Response::Submitted {
            job: id,
            created: true,
        })
    }

    /// The job that the idempotency key of `spec` has given already.
    ///
    /// # Errors
    /// It was given to another request.
    fn known(&self, spec: &JobSpec) -> Result<Option<JobId>, Refusal> {
        let key = spec.idempotency_key.as_ref();
        let Some(&known) = key.and_then(|key| self.keys.get(key)) else {
            return Ok(None);
        };
        let job = self.jobs.get(&known);
        if job.is_some_and(|job| job.spec.is_same_request(spec)) {
            Ok(Some(known))
        } else {
            Err(Refusal::KeyReused(known))
        }
    }

    pub(super) fn cancel(
        &mut self,
        now: Now,
        id: JobId,
        reason: String,
        effects: &mut Effects,
    ) -> Result<Response, Refusal> {
        let job = self.jobs.get(&id).ok_or(Refusal::UnknownJob(id))?;
        match &job.state {
            JobState::Queued { .. } | JobState::Paused { .. } => {
                self.cancel_waiting(now, id, reason, effects);
                self.go_on_after(now, id, effects);
            }
            JobState::Running { .. } => {
                let then = AfterStop::Cancelled;
                self.ask_to_stop(id, Stop { reason, then }, effects);
            }
            ended => {
                return Err(Refusal::JobEnded {
                    job: id,
                    state: ended.word(),
                });
            }
        }
        Ok(Response::Done)
    }

    /// Cancels a job that does not run. Those that come after it are not looked at.
    pub(super) fn cancel_waiting(
        &mut self,
        now: Now,
        id: JobId,
        reason: String,
        effects: &mut Effects,
    ) {
        let Some(job) = self.jobs.get(&id) else {
            return;
        };
        self.dependents.remove(job);
        self.move_on(id, |job| {
            job.waits_for.clear();
            job.state = JobState::Cancelled {
                at: now.wall,
                reason: reason.clone(),
            };
            job.progress.phase = job.state.word().into();
        });
        let kind = JournalKind::Cancelled;
        effects.push(Effect::record(Some(id), None, kind, reason));
        effects.push(Effect::Save(id));
        self.withdraw(now, id, effects);
    }

    /// Takes a job out of the queue; workers that were kept free for it have other work.
    pub(super) fn withdraw(&mut self, now: Now, id: JobId, effects: &mut Effects) {
        self.queue.remove(id);
        let workers = self.jobs.get(&id).map_or(0, |job| job.spec.needs.workers);
        if workers > 1 {
            self.wake_all(now, effects);
        }
    }

    /// Tells the workers of a running job to save and stop; the job goes on as `stop` says once
    /// they have.
    pub(super) fn ask_to_stop(&mut self, id: JobId, stop: Stop, effects: &mut Effects) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let JobState::Running {
            token, stopping, ..
        } = &mut job.state
        else {
            return;
        };
        let reason = stop.reason.clone();
        *stopping = Some(stop);
        let token = *token;
        let holders = job.attempt(token).into_iter().flat_map(Attempt::holders);
        let sessions = holders.filter_map(|name| Some(self.workers.get(name)?.session));
        effects.extend(sessions.map(Effect::Wake));
        effects.push(Effect::record(
            Some(id),
            None,
            JournalKind::Stopping,
            reason,
        ));
        effects.push(Effect::Save(id));
    }
}
