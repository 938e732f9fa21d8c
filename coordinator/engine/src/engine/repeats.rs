//! Ended jobs are done once more, or go.

use super::state::Engine;
use crate::event::{ENDED, Effect, Effects, JournalKind, Refusal, Response};
use crate::ids::{JobId, Now};
use crate::job::{After, Job, JobSpec, JobState};

/// How an ended job is done again.
pub(super) struct Again {
    pub from_start: bool,
    pub idempotency_key: Option<String>,
    pub owner: String,
}

impl Engine {
    /// Submits what job `id` was once more. The new job begins with the newest checkpoint of the
    /// old one, unless `from_start` is set. Whoever does it again asks for it now: it comes after no
    /// other job.
    pub(super) fn retry(
        &mut self,
        now: Now,
        id: JobId,
        again: Again,
        effects: &mut Effects,
    ) -> Result<Response, Refusal> {
        let Again {
            from_start,
            idempotency_key,
            owner,
        } = again;
        let job = self.ended(id, "retried")?;
        if matches!(job.state, JobState::Succeeded { .. }) && !from_start {
            return Err(Refusal::NothingLeft(id));
        }
        let spec = JobSpec {
            idempotency_key,
            retry_of: Some(id),
            from_start,
            owner,
            after: After::default(),
            ..job.spec.clone()
        };
        let checkpoint = job.checkpoint().filter(|_| !from_start).cloned();
        let response = self.submit(now, spec, effects)?;
        if let Response::Submitted {
            job: made,
            created: true,
        } = response
            && let Some(job) = self.jobs.get_mut(&made)
        {
            job.artifacts.extend(checkpoint);
        }
        Ok(response)
    }

    /// Lets job `id` go, with its artifacts; `reason` is that of who did not name the job.
    pub(super) fn remove_job(
        &mut self,
        id: JobId,
        reason: Option<&str>,
        effects: &mut Effects,
    ) -> Result<Response, Refusal> {
        let job = self.ended(id, "removed")?;
        let key = job.spec.idempotency_key.clone();
        let name = &job.spec.name;
        let text = reason.map_or_else(|| name.clone(), |reason| format!("{name}: {reason}"));
        effects.extend(job.digests().map(|digest| Effect::release(job, digest)));
        effects.push(Effect::record(Some(id), None, JournalKind::Removed, text));
        effects.push(Effect::Remove(id));
        if let Some(key) = key {
            self.keys.remove(&key);
        }
        if let Some(job) = self.jobs.get(&id) {
            self.shares.take(job);
        }
        self.jobs.remove(id);
        Ok(Response::Done)
    }

    /// The job `id`, to which `done` is done only once it has ended.
    pub(super) fn ended(&self, id: JobId, done: &'static str) -> Result<&Job, Refusal> {
        let job = self.jobs.get(&id).ok_or(Refusal::UnknownJob(id))?;
        if !job.state.is_final() {
            return Err(Refusal::WrongState {
                job: id,
                state: job.state.word(),
                wanted: ENDED,
                done,
            });
        }
        Ok(job)
    }
}
