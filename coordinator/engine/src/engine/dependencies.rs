//! Jobs that wait for other jobs to end.
//!
//! A job names jobs that are there already, so that no circle comes about. What it still waits for
//! is part of its record and shrinks with every end: once a job has ended nobody waits for it, and
//! to delete it changes nothing for those that came after it.

use std::collections::BTreeSet;

use super::state::Engine;
use crate::event::{Effect, Effects, Refusal};
use crate::ids::{JobId, Now};
use crate::job::{After, Final, JobState};

impl Engine {
    /// Those of `after` that have not ended.
    ///
    /// # Errors
    /// One is not there, or has ended otherwise than it had to.
    pub(super) fn to_wait_for(&self, after: &After) -> Result<Vec<JobId>, Refusal> {
        let mut open = Vec::new();
        for id in after.jobs.iter().collect::<BTreeSet<_>>() {
            match self.end_of(*id)? {
                None => open.push(*id),
                Some(Final::Succeeded) => {}
                Some(_) if after.any => {}
                Some(how) => {
                    return Err(Refusal::DependencyEnded {
                        job: *id,
                        state: how.word(),
                    });
                }
            }
        }
        Ok(open)
    }

    /// How job `id` has ended, be it at hand or not; none where it has not.
    fn end_of(&self, id: JobId) -> Result<Option<Final>, Refusal> {
        match (self.jobs.get(&id), self.jobs.ended().get(id)) {
            (Some(job), _) => Ok(job.state.end()),
            (None, Some(ended)) => Ok(Some(ended.how)),
            (None, None) => Err(Refusal::UnknownDependency(id)),
        }
    }

    /// Job `id` has ended: jobs that waited for nothing else may start, and those are cancelled
    /// that can no longer start, with all that come after them.
    pub(super) fn go_on_after(&mut self, now: Now, id: JobId, effects: &mut Effects) {
        let mut ended = vec![id];
        while let Some(id) = ended.pop() {
            let Some(state) = self.jobs.get(&id).map(|job| job.state.clone()) else {
                continue;
            };
            let has_succeeded = matches!(state, JobState::Succeeded { .. });
            for next in self.dependents.take(id) {
                let Some(job) = self.jobs.get_mut(&next) else {
                    continue;
                };
                job.waits_for.retain(|other| *other != id);
                if has_succeeded || job.spec.after.any {
                    self.may_start_after(now, next, effects);
                } else {
                    let reason = came_after(id, &state);
                    self.cancel_waiting(now, next, reason, effects);
                    ended.push(next);
                }
            }
        }
    }

    /// Job `id` waits for one job less.
    fn may_start_after(&mut self, now: Now, id: JobId, effects: &mut Effects) {
        effects.push(Effect::Save(id));
        let Some(job) = self.jobs.get(&id) else {
            return;
        };
        if job.waits_for.is_empty() && matches!(job.state, JobState::Queued { .. }) {
            self.queue.insert(job);
            self.wake_one_for(now, id, effects);
        }
    }
}

/// Why a job that came after job `id` is cancelled.
fn came_after(id: JobId, state: &JobState) -> String {
    let what = match state {
        JobState::Cancelled { .. } => "was cancelled",
        _ => "has failed",
    };
    format!("job {id}, which it comes after, {what}")
}
