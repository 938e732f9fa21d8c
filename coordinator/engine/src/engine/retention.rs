//! Which ended jobs go by age, number and bytes, what they free, and how a part of one goes.
//!
//! Jobs that have not ended are never among them.

use std::collections::BTreeSet;

use super::needed::Needed;
use super::state::Engine;
use crate::event::{Effect, Effects, JournalKind, Refusal, Response};
use crate::ids::{JobId, Millis};
use crate::job::Job;
use crate::prune::Prune;

impl Engine {
    /// Jobs that ended at `until` or earlier and still have what `what` says, but for the `keep`
    /// that ended last among all. The one that ended first is the first.
    pub fn prunable(&self, what: Prune, until: Millis, keep: usize) -> Vec<JobId> {
        let ended = |job: &Job| Some((job.state.ended()?, job.id));
        let at_hand: BTreeSet<(Millis, JobId)> = self.jobs.values().filter_map(ended).collect();
        let away = self.jobs.ended().order();
        let many = (at_hand.len() + away.len()).saturating_sub(keep);
        let first = away.union(&at_hand).take(many);
        let old = first.take_while(|(at, _)| *at <= until);
        let has_it = |id: &JobId| self.jobs.brief(*id).is_some_and(|job| job.has(what));
        old.map(|(_, id)| *id).filter(has_it).collect()
    }

    /// The ended jobs that have to go for all jobs together to need no more than `bytes` of the
    /// artifact store; the one that ended first is the first. Where the jobs that have not ended
    /// need more by themselves, all of them.
    pub fn beyond_bytes(&self, bytes: u64) -> Vec<JobId> {
        let mut needed = self.needed();
        let mut left = needed.bytes();
        // Mostly they fit, and there may be a million of them to put in order.
        if left <= bytes {
            return Vec::new();
        }
        let mut gone = Vec::new();
        for id in self.prunable(Prune::Job, Millis(u64::MAX), 0) {
            if left <= bytes {
                break;
            }
            let Some(job) = self.jobs.brief(id) else {
                continue;
            };
            // One without artifacts and files is in nobody's way.
            let digests = job.let_go(Prune::Job);
            if !digests.is_empty() {
                left = left.saturating_sub(needed.remove(&digests));
                gone.push(id);
            }
        }
        gone
    }

    /// Bytes of the artifact store that each of `ids` frees when `what` of them goes in this order:
    /// what several need is freed by the last of them, and what others need by none.
    pub fn freed(&self, what: Prune, ids: &[JobId]) -> Vec<u64> {
        let mut needed = self.needed();
        let jobs = ids.iter().map(|id| self.jobs.brief(*id));
        jobs.map(|job| job.map_or(0, |job| needed.remove(&job.let_go(what))))
            .collect()
    }

    /// What all jobs need of the artifact store, be they at hand or away.
    fn needed(&self) -> Needed<&str> {
        let mut all = self.jobs.ended().needed().borrowed();
        self.jobs.values().for_each(|job| all.add(job.needed()));
        all
    }

    /// Lets `what` of job `id` go. What is gone already is no fault.
    pub(super) fn prune(
        &mut self,
        id: JobId,
        what: Prune,
        reason: &str,
        effects: &mut Effects,
    ) -> Result<Response, Refusal> {
        self.ended(id, "pruned")?;
        if !self.jobs.brief(id).is_some_and(|job| job.has(what)) {
            return Ok(Response::Done);
        }
        let job = self.jobs.get_mut(&id).ok_or(Refusal::UnknownJob(id))?;
        let part = match what {
            Prune::Job => return self.remove_job(id, Some(reason), effects),
            Prune::Artifacts => {
                let gone = std::mem::take(&mut job.artifacts);
                effects.extend(
                    gone.iter()
                        .map(|artifact| Effect::release(job, &artifact.digest)),
                );
                job.pruned.artifacts = true;
                "checkpoints and adapters"
            }
            Prune::Records => {
                effects.push(Effect::RemoveRecords(id));
                job.pruned.records = true;
                "metrics and log"
            }
        };
        let text = format!("{part}: {reason}");
        effects.push(Effect::record(Some(id), None, JournalKind::Pruned, text));
        effects.push(Effect::Save(id));
        Ok(Response::Done)
    }
}
