//! Jobs are paused and go on.

use super::state::Engine;
use crate::event::{Effect, Effects, JournalKind, Refusal, Response};
use crate::ids::{JobId, Now};
use crate::job::{AfterStop, ArtifactKind, Job, JobState, Stop};

impl Engine {
    pub(super) fn pause(
        &mut self,
        now: Now,
        id: JobId,
        reason: String,
        effects: &mut Effects,
    ) -> Result<Response, Refusal> {
        let job = self.jobs.get(&id).ok_or(Refusal::UnknownJob(id))?;
        match &job.state {
            JobState::Queued { .. } => {
                self.withdraw(now, id, effects);
                self.set_paused(now, id, reason, effects);
            }
            JobState::Running {
                stopping:
                    None
                    | Some(Stop {
                        then: AfterStop::Queued,
                        ..
                    }),
                ..
            } => {
                let then = AfterStop::Paused;
                self.ask_to_stop(id, Stop { reason, then }, effects);
            }
            // Asked once already: this is the same request again.
            JobState::Running {
                stopping:
                    Some(Stop {
                        then: AfterStop::Paused,
                        ..
                    }),
                ..
            }
            | JobState::Paused { .. } => {}
            stopping @ JobState::Running { .. } => {
                return Err(Refusal::WrongState {
                    job: id,
                    state: doing(stopping),
                    wanted: "a queued or running",
                    done: "paused",
                });
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

    fn set_paused(&mut self, now: Now, id: JobId, reason: String, effects: &mut Effects) {
        let paused = self.move_on(id, |job| {
            job.state = JobState::Paused {
                at: now.wall,
                reason: reason.clone(),
            };
            job.progress.phase = job.state.word().into();
        });
        if paused.is_none() {
            return;
        }
        effects.push(Effect::record(Some(id), None, JournalKind::Paused, reason));
        effects.push(Effect::Save(id));
    }

    /// A person has looked at it: workers that were lost before count no more.
    pub(super) fn resume(
        &mut self,
        now: Now,
        id: JobId,
        from: Option<u64>,
        effects: &mut Effects,
    ) -> Result<Response, Refusal> {
        let job = self.jobs.get(&id).ok_or(Refusal::UnknownJob(id))?;
        match &job.state {
            JobState::Paused { .. } => {}
            // Resumed once already: this is the same request again.
            JobState::Queued { .. } if is_resumed(job, from) => return Ok(Response::Done),
            other => {
                return Err(Refusal::WrongState {
                    job: id,
                    state: doing(other),
                    wanted: "a paused",
                    done: "resumed",
                });
            }
        }
        if let Some(step) = from {
            self.go_back_to(id, step, effects)?;
        }
        self.move_on(id, |job| {
            job.state = JobState::Queued {
                not_before: now.steady,
            };
            job.lost_in_a_row = 0;
            job.progress.phase = job.state.word().into();
        });
        let job = self.jobs.get(&id).ok_or(Refusal::UnknownJob(id))?;
        self.queue.insert(job);
        let text = from.map_or_else(String::new, |step| format!("from step {step}"));
        effects.push(Effect::record(Some(id), None, JournalKind::Resumed, text));
        effects.push(Effect::Save(id));
        self.wake_one_for(now, id, effects);
        Ok(Response::Done)
    }

    /// Lets go of the checkpoints behind step `step`, so that the one of that step is the newest.
    fn go_back_to(&mut self, id: JobId, step: u64, effects: &mut Effects) -> Result<(), Refusal> {
        let kept = self.jobs.get(&id).map(steps).unwrap_or_default();
        if !kept.contains(&step) {
            return Err(Refusal::NoCheckpoint {
                job: id,
                step,
                kept,
            });
        }
        let Some(job) = self.jobs.get_mut(&id) else {
            return Err(Refusal::UnknownJob(id));
        };
        let (later, stays): (Vec<_>, _) = std::mem::take(&mut job.artifacts)
            .into_iter()
            .partition(|a| a.kind == ArtifactKind::Checkpoint && a.step > step);
        job.artifacts = stays;
        effects.extend(
            later
                .iter()
                .map(|artifact| Effect::release(job, &artifact.digest)),
        );
        Ok(())
    }
}

/// Whether a job that waits goes on from where a request to resume it wants it to.
fn is_resumed(job: &Job, from: Option<u64>) -> bool {
    from.is_none_or(|step| job.checkpoint().is_some_and(|newest| newest.step == step))
}

/// The state of a job, and what it does before it reaches the next one.
fn doing(state: &JobState) -> &'static str {
    match state {
        JobState::Running {
            stopping: Some(stop),
            ..
        } => match stop.then {
            AfterStop::Paused => "being paused",
            AfterStop::Cancelled => "being cancelled",
            AfterStop::Queued => "being stopped",
        },
        other => other.word(),
    }
}

/// Steps of the checkpoints of `job`, in their order.
fn steps(job: &Job) -> Vec<u64> {
    let checkpoints = job
        .artifacts
        .iter()
        .filter(|a| a.kind == ArtifactKind::Checkpoint);
    let mut steps: Vec<u64> = checkpoints.map(|a| a.step).collect();
    steps.sort_unstable();
    steps
}
