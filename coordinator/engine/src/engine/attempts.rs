//! Attempts report, save and end.

use super::{Effects, Engine, Limits, record, word};
use crate::event::{Effect, Refusal, Response};
use crate::ids::{JobId, Millis, Token};
use crate::job::{Artifact, AttemptEnd, Job, JobState, Meeting, Outcome, Progress};

impl Engine {
    /// The job that holds `token`, for a change under it.
    fn current(&mut self, token: Token) -> Result<&mut Job, Refusal> {
        let id = *self.running.get(&token).ok_or(Refusal::StaleToken(token))?;
        self.jobs.get_mut(&id).ok_or(Refusal::StaleToken(token))
    }

    pub(super) fn report(
        &mut self,
        token: Token,
        rank: u32,
        batch: u64,
        progress: Option<Progress>,
        effects: &mut Effects,
    ) -> Result<Response, Refusal> {
        let job = self.current(token)?;
        let id = job.id;
        let known = job.attempt_mut(token).and_then(|a| a.batch_mut(rank)).ok_or(Refusal::StaleToken(token))?;
        if batch <= *known {
            return Ok(Response::Batch { job: id, is_new: false });
        }
        *known = batch;
        if let Some(mut progress) = progress.filter(|_| rank == 0) {
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

    pub(super) fn commit(
        &mut self,
        token: Token,
        artifact: Artifact,
        effects: &mut Effects,
    ) -> Result<Response, Refusal> {
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

    /// Where the others of the attempt `token` find its first worker; later offers replace earlier ones.
    pub(super) fn offer(&mut self, token: Token, meeting: Meeting, effects: &mut Effects) -> Result<Response, Refusal> {
        let job = self.current(token)?;
        let id = job.id;
        let attempt = job.attempt_mut(token).ok_or(Refusal::StaleToken(token))?;
        if attempt.meeting.as_ref() != Some(&meeting) {
            attempt.meeting = Some(meeting);
            effects.push(Effect::Save(id));
        }
        Ok(Response::Done)
    }

    /// A worker lets go of an attempt. The first one ends it, and so does the failure of any other; the others are done
    /// before the first is. Who has lost another waits for what that one tells, unless nobody is left to tell it.
    pub(super) fn finish(
        &mut self,
        now: Millis,
        (token, rank): (Token, u32),
        outcome: Outcome,
        message: String,
        effects: &mut Effects,
    ) -> Result<Response, Refusal> {
        let job = self.current(token)?;
        let id = job.id;
        let attempt = job.attempt_mut(token).ok_or(Refusal::StaleToken(token))?;
        let waits = match (rank, outcome) {
            (0, outcome) => outcome == Outcome::PeerLost,
            (_, outcome) => matches!(outcome, Outcome::Succeeded | Outcome::Stopped | Outcome::PeerLost),
        };
        if !waits {
            self.end_attempt(now, id, token, outcome, message, effects);
            return Ok(Response::Done);
        }
        let Some(worker) = attempt.let_go(rank) else { return Err(Refusal::StaleToken(token)) };
        let nobody_is_left = attempt.holders().next().is_none();
        effects.push(Effect::Save(id));
        self.release(&worker, token);
        if nobody_is_left {
            self.end_attempt(now, id, token, Outcome::Failed, message, effects);
        }
        Ok(Response::Done)
    }

    /// The worker `name` holds the attempt `token` no more; whether it did.
    fn release(&mut self, name: &str, token: Token) -> bool {
        match self.workers.get_mut(name).filter(|w| w.assigned == Some(token)) {
            Some(worker) => {
                worker.assigned = None;
                true
            }
            None => false,
        }
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
        self.release_all(id, token, effects);
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
            self.wake_one_for(now, id, effects);
        }
    }

    /// Everyone who holds the attempt `token` is free of it, and those of a group hear of it at once.
    fn release_all(&mut self, id: JobId, token: Token, effects: &mut Effects) {
        let Some(attempt) = self.jobs.get(&id).and_then(|job| job.attempt(token)) else { return };
        let holders: Vec<String> = attempt.holders().map(str::to_owned).collect();
        let together = attempt.size() > 1;
        for name in holders {
            if self.release(&name, token)
                && together
                && let Some(worker) = self.workers.get(&name)
            {
                effects.push(Effect::Wake(worker.session));
            }
        }
    }

    /// The worker `name` has lost what it was given.
    pub(super) fn lose(&mut self, now: Millis, name: &str, why: &str, effects: &mut Effects) {
        let Some(token) = self.workers.get(name).and_then(|w| w.assigned) else { return };
        if let Some(&id) = self.running.get(&token) {
            self.end_attempt(now, id, token, Outcome::Lost, why.to_owned(), effects);
        }
    }
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
        (Outcome::Failed | Outcome::PeerLost, None) if job.failures > job.spec.max_retries => {
            JobState::Failed { at: now, reason: format!("{message} (after {} failed attempts)", job.failures) }
        }
        (Outcome::Failed | Outcome::PeerLost, None) => {
            let doubled = limits.backoff << job.failures.saturating_sub(1).min(20);
            JobState::Queued { not_before: now.plus(doubled.min(limits.max_backoff)) }
        }
        (Outcome::Lost | Outcome::Stopped, None) => JobState::Queued { not_before: now },
    }
}
