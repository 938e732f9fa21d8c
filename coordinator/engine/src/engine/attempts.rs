//! Attempts report, save and end.

use super::next::{Ending, next_state, requeued_because};
use super::state::Engine;
use crate::attempt::{Attempt, AttemptEnd, Outcome, Rendezvous};
use crate::event::{Effect, Effects, JournalKind, Refusal, Response};
use crate::ids::{JobId, Now, SessionId, Token};
use crate::job::{Artifact, ArtifactKind, Job, JobState};
use crate::progress::Progress;

impl Engine {
    /// The rank of the worker of `session` in the attempt `token`, which is current.
    ///
    /// # Errors
    /// A session that is not known is told before an attempt that is not: the attempt may be
    /// another coordinator's, and a worker learns by registering to which one it speaks.
    pub fn rank_of(&self, (session, token): (SessionId, Token)) -> Result<u32, Refusal> {
        let worker = self
            .worker_of(session)
            .ok_or(Refusal::StaleSession(session))?;
        let job = self.running.get(&token).and_then(|id| self.jobs.get(id));
        let attempt = job
            .and_then(|job| job.attempt(token))
            .ok_or(Refusal::StaleToken(token))?;
        attempt.rank(&worker.name).ok_or(Refusal::NotYours(token))
    }

    /// The job of the attempt `token`, for a change under it by the worker of `session`, and this
    /// one's rank.
    fn current(
        &mut self,
        (session, token): (SessionId, Token),
    ) -> Result<(&mut Job, u32), Refusal> {
        let rank = self.rank_of((session, token))?;
        let id = *self.running.get(&token).ok_or(Refusal::StaleToken(token))?;
        Ok((
            self.jobs.get_mut(&id).ok_or(Refusal::StaleToken(token))?,
            rank,
        ))
    }

    /// As [`Self::current`], for what only the first worker of an attempt does.
    fn current_first(&mut self, by: (SessionId, Token)) -> Result<&mut Job, Refusal> {
        match self.current(by)? {
            (job, 0) => Ok(job),
            _ => Err(Refusal::NotYours(by.1)),
        }
    }

    pub(super) fn report(
        &mut self,
        by: (SessionId, Token),
        batch: u64,
        progress: Option<Progress>,
        effects: &mut Effects,
    ) -> Result<Response, Refusal> {
        let token = by.1;
        let gather = self.limits.gather(self.running.len());
        let (job, rank) = self.current(by)?;
        let id = job.id;
        let known = job
            .attempt_mut(token)
            .and_then(|a| a.batch_mut(rank))
            .ok_or(Refusal::StaleToken(token))?;
        if batch <= *known {
            return Ok(Response::Batch {
                job: id,
                is_new: false,
                gather,
            });
        }
        *known = batch;
        if let Some(mut progress) = progress.filter(|_| rank == 0) {
            // Samples and the first evaluation of an earlier attempt stay.
            let mut samples = std::mem::take(&mut job.progress.samples);
            samples.retain(|old| {
                !progress
                    .samples
                    .iter()
                    .any(|new| (new.step, &new.prompt) == (old.step, &old.prompt))
            });
            samples.append(&mut progress.samples);
            progress.samples = samples;
            progress.first_evaluation = progress.first_evaluation.or(job.progress.first_evaluation);
            progress.last_evaluation = progress.last_evaluation.or(job.progress.last_evaluation);
            job.progress = progress;
        }
        if let Some(attempt) = job.attempt_mut(token) {
            attempt.heard_under(rank, by.0);
        }
        effects.push(Effect::Save(id));
        Ok(Response::Batch {
            job: id,
            is_new: true,
            gather,
        })
    }

    pub(super) fn commit(
        &mut self,
        by: (SessionId, Token),
        artifact: Artifact,
        effects: &mut Effects,
    ) -> Result<Response, Refusal> {
        let job = self.current_first(by)?;
        let committed = job.checkpoint().map_or(0, |a| a.step);
        if artifact.kind == ArtifactKind::Checkpoint && artifact.step < committed {
            return Err(Refusal::StepWentBack {
                step: artifact.step,
                committed,
            });
        }
        let id = job.id;
        job.lost_in_a_row = 0;
        job.artifacts
            .retain(|a| !(a.kind == artifact.kind && a.name == artifact.name));
        effects.push(Effect::record(
            Some(id),
            None,
            JournalKind::Saved,
            format!(
                "{} {} of step {}",
                artifact.kind, artifact.name, artifact.step
            ),
        ));
        job.artifacts.push(artifact);
        let old = job.let_old_checkpoints_go();
        effects.extend(old.iter().map(|digest| Effect::release(job, digest)));
        effects.push(Effect::Save(id));
        Ok(Response::Done)
    }

    /// Where the others of the attempt `token` find its first worker; later offers replace earlier
    /// ones.
    pub(super) fn offer(
        &mut self,
        by: (SessionId, Token),
        rendezvous: Rendezvous,
        effects: &mut Effects,
    ) -> Result<Response, Refusal> {
        let token = by.1;
        let job = self.current_first(by)?;
        let id = job.id;
        let attempt = job.attempt_mut(token).ok_or(Refusal::StaleToken(token))?;
        if attempt.rendezvous.as_ref() != Some(&rendezvous) {
            attempt.rendezvous = Some(rendezvous);
            effects.push(Effect::Save(id));
        }
        Ok(Response::Done)
    }

    /// A worker lets go of an attempt. The first one ends it, and so does the failure of any other;
    /// the others are done before the first is. A worker that lost its peer waits for the peer's
    /// own report, unless nobody is left to make it.
    pub(super) fn finish(
        &mut self,
        now: Now,
        by: (SessionId, Token),
        ending: Ending,
        effects: &mut Effects,
    ) -> Result<Response, Refusal> {
        let (token, outcome) = (by.1, ending.outcome);
        let (job, rank) = self.current(by)?;
        let id = job.id;
        if rank == 0
            && outcome == Outcome::Succeeded
            && let Some(missing) = job.missing_result()
        {
            // Refused alone, it would be given the same attempt again, and say the same of it
            // without end.
            let message = format!("its worker said that it succeeded, and it {missing}");
            self.end_attempt(
                now,
                id,
                token,
                Ending::new(Outcome::Failed, message),
                effects,
            );
            return Err(Refusal::NoResult { missing });
        }
        let attempt = job.attempt_mut(token).ok_or(Refusal::StaleToken(token))?;
        let waits = match (rank, outcome) {
            (0, outcome) => outcome == Outcome::PeerLost,
            (_, outcome) => matches!(
                outcome,
                Outcome::Succeeded | Outcome::Stopped | Outcome::PeerLost
            ),
        };
        if !waits {
            let counts = !self.inherited.contains(&token);
            self.end_attempt(
                now,
                id,
                token,
                Ending { counts, ..ending }.explained(),
                effects,
            );
            return Ok(Response::Done);
        }
        let Some(worker) = attempt.let_go(rank) else {
            return Err(Refusal::StaleToken(token));
        };
        let nobody_is_left = attempt.holders().next().is_none();
        effects.push(Effect::Save(id));
        self.release(&worker, token);
        if nobody_is_left {
            self.end_attempt(
                now,
                id,
                token,
                Ending {
                    outcome: Outcome::Failed,
                    ..ending
                },
                effects,
            );
        }
        Ok(Response::Done)
    }

    /// The worker `name` holds the attempt `token` no more; whether it did.
    fn release(&mut self, name: &str, token: Token) -> bool {
        let holder = self.workers.get_mut(name);
        let Some(mut worker) = holder.filter(|w| w.assigned == Some(token)) else {
            return false;
        };
        worker.assigned = None;
        true
    }

    /// Ends the attempt `token` of job `id` and moves the job on.
    fn end_attempt(
        &mut self,
        now: Now,
        id: JobId,
        token: Token,
        ending: Ending,
        effects: &mut Effects,
    ) {
        let ending = match self.jobs.get(&id) {
            Some(job) => ending.of(&job.state),
            None => ending,
        };
        let outcome = ending.outcome;
        self.running.remove(&token);
        self.time_limits.set(&token, None);
        self.release_all(id, token, effects);
        let limits = self.limits;
        let ended = self.move_on(id, |job| {
            if let Some(attempt) = job.attempt_mut(token) {
                attempt.end = Some(AttemptEnd {
                    at: now.wall,
                    outcome,
                    message: ending.message.clone(),
                    code: ending.code.clone(),
                });
            }
            match outcome {
                Outcome::Failed => job.failures += 1,
                Outcome::Lost if ending.counts => job.lost_in_a_row += 1,
                _ => {}
            }
            let next = next_state(job, now, &ending, limits);
            let told = told(job, &next, &ending, now);
            job.progress.phase = next.word().into();
            job.progress.seconds_left = None;
            job.state = next;
            told
        });
        let Some((kind, text)) = ended else {
            return;
        };
        effects.push(Effect::record(Some(id), None, kind, text));
        effects.push(Effect::Save(id));
        if outcome == Outcome::Succeeded {
            self.attribute_failures(id, token, effects);
        }
        match self.jobs.get(&id) {
            Some(job) if matches!(job.state, JobState::Queued { .. }) => {
                self.queue.insert(job);
                self.wake_one_for(now, id, effects);
            }
            Some(job) if job.state.is_final() => self.go_on_after(now, id, effects),
            _ => {}
        }
    }

    /// The attempt `token` of job `id` has succeeded: earlier failures of the job are attributed to
    /// the workers on which it failed.
    fn attribute_failures(&mut self, id: JobId, token: Token, effects: &mut Effects) {
        let Some(job) = self.jobs.get(&id) else {
            return;
        };
        let Some(done) = job.attempt(token) else {
            return;
        };
        for name in done.workers() {
            if let Some(mut worker) = self.workers.get_mut(name) {
                worker.attributed.clear();
            }
        }
        let failed = |a: &&Attempt| {
            a.size() == 1
                && a.end
                    .as_ref()
                    .is_some_and(|end| end.outcome == Outcome::Failed)
        };
        for attempt in job
            .attempts
            .iter()
            .filter(failed)
            .filter(|a| done.rank(&a.worker).is_none())
        {
            let Some(mut worker) = self.workers.get_mut(&attempt.worker) else {
                continue;
            };
            let was = worker.set_aside().is_some();
            worker.attributed.insert(id);
            if let Some(reason) = worker.set_aside().filter(|_| !was) {
                effects.push(Effect::record(
                    None,
                    Some(worker.name.clone()),
                    JournalKind::SetAside,
                    reason,
                ));
            }
        }
    }

    /// Everyone who holds the attempt `token` is free of it, and those of a process group hear of it at
    /// once.
    fn release_all(&mut self, id: JobId, token: Token, effects: &mut Effects) {
        let Some(attempt) = self.jobs.get(&id).and_then(|job| job.attempt(token)) else {
            return;
        };
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
    pub(super) fn lose(&mut self, now: Now, name: &str, why: &str, effects: &mut Effects) {
        let Some((worker, token)) = self.workers.get(name).and_then(|w| Some((w, w.assigned?)))
        else {
            return;
        };
        // Whoever was silent since the start may have been lost while nobody could have renewed its
        // lease.
        let is_our_doing = self.inherited.contains(&token) && worker.is_absent();
        let ending = Ending {
            counts: !is_our_doing,
            ..Ending::new(Outcome::Lost, why.to_owned())
        };
        if let Some(&id) = self.running.get(&token) {
            self.end_attempt(now, id, token, ending.explained(), effects);
        }
    }
}

/// What the journal tells of a job that goes to `next` when its attempt ends.
fn told(job: &Job, next: &JobState, ending: &Ending, now: Now) -> (JournalKind, String) {
    match next {
        JobState::Succeeded { .. } => (JournalKind::Succeeded, String::new()),
        JobState::Failed { reason, .. } => (JournalKind::Failed, reason.clone()),
        JobState::Cancelled { reason, .. } => (JournalKind::Cancelled, reason.clone()),
        JobState::Queued { not_before } => (
            JournalKind::Requeued,
            requeued_because(job, ending, not_before.0 - now.steady.0),
        ),
        JobState::Paused { reason, .. } => (JournalKind::Paused, reason.clone()),
        JobState::Running { .. } => (JournalKind::Started, String::new()),
    }
}
