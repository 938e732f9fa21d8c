//! Which ended jobs go by age, number and bytes, what they free, and how a part of one goes.
//!
//! Jobs that have not ended are never among them.

use std::collections::{BTreeSet, HashMap};

use super::jobs::Jobs;
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
        let has_it = |id: &JobId| match self.jobs.get(id) {
            Some(job) => has(job, what),
            None => self.jobs.ended().get(*id).is_some_and(|job| job.has(what)),
        };
        old.map(|(_, id)| *id).filter(has_it).collect()
    }

    /// The ended jobs that have to go for all jobs together to need no more than `bytes` of the
    /// artifact store; the one that ended first is the first. Where the jobs that have not ended
    /// need more by themselves, all of them.
    pub fn beyond_bytes(&self, bytes: u64) -> Vec<JobId> {
        let mut needed = Needed::of(&self.jobs);
        let mut left = needed.bytes();
        let mut gone = Vec::new();
        for id in self.prunable(Prune::Job, Millis(u64::MAX), 0) {
            if left <= bytes {
                break;
            }
            // One without artifacts and files is in nobody's way.
            let digests = self.let_go_by(id, Prune::Job);
            if !digests.is_empty() {
                left = left.saturating_sub(needed.let_go(&digests));
                gone.push(id);
            }
        }
        gone
    }

    /// Bytes of the artifact store that each of `ids` frees when `what` of them goes in this order:
    /// what several need is freed by the last of them, and what others need by none.
    pub fn freed(&self, what: Prune, ids: &[JobId]) -> Vec<u64> {
        let mut needed = Needed::of(&self.jobs);
        let each = ids.iter().map(|id| self.let_go_by(*id, what));
        each.map(|digests| needed.let_go(&digests)).collect()
    }

    /// Digests that job `id` needs no more once `what` of it is gone, each once.
    fn let_go_by(&self, id: JobId, what: Prune) -> BTreeSet<&str> {
        match (self.jobs.get(&id), self.jobs.ended().get(id)) {
            (Some(job), _) => {
                let given = job.spec.files.iter().map(|f| f.digest.as_str());
                let made = job.artifacts.iter().map(|a| a.digest.as_str());
                let_go(given, made, what)
            }
            (None, Some(job)) => {
                let given = job.files().iter().map(|(digest, _)| digest.as_str());
                let made = job.artifacts().iter().map(|(digest, _)| digest.as_str());
                let_go(given, made, what)
            }
            (None, None) => BTreeSet::new(),
        }
    }

    /// Lets `what` of job `id` go. What is gone already is no fault.
    pub(super) fn prune(
        &mut self,
        id: JobId,
        what: Prune,
        reason: &str,
        effects: &mut Effects,
    ) -> Result<Response, Refusal> {
        if !has(self.ended(id, "pruned")?, what) {
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

/// Whether anything is left of `job` that `what` would delete.
fn has(job: &Job, what: Prune) -> bool {
    match what {
        Prune::Job => true,
        Prune::Artifacts => !job.artifacts.is_empty(),
        Prune::Records => !job.pruned.records,
    }
}

/// Digests that a job which was `given` some and has `made` some needs no more once `what` of it is
/// gone, each once.
fn let_go<'a>(
    given: impl Iterator<Item = &'a str>,
    made: impl Iterator<Item = &'a str>,
    what: Prune,
) -> BTreeSet<&'a str> {
    let given: BTreeSet<&str> = given.collect();
    match what {
        Prune::Job => given.into_iter().chain(made).collect(),
        Prune::Artifacts => made.filter(|digest| !given.contains(digest)).collect(),
        Prune::Records => BTreeSet::new(),
    }
}

/// What jobs need of the artifact store: how many need each digest, and its bytes.
struct Needed<'a>(HashMap<&'a str, (usize, u64)>);

impl<'a> Needed<'a> {
    fn of(jobs: &'a Jobs) -> Self {
        let away = jobs.ended().needed().iter();
        let mut all: HashMap<&'a str, (usize, u64)> = away
            .map(|(digest, used)| (digest.as_str(), *used))
            .collect();
        for job in jobs.values() {
            let files = job.spec.files.iter().map(|f| (f.digest.as_str(), f.size));
            let made = job.artifacts.iter().map(|a| (a.digest.as_str(), a.size));
            let each_once: HashMap<&'a str, u64> = files.chain(made).collect();
            for (digest, size) in each_once {
                let (jobs, bytes) = all.entry(digest).or_default();
                *jobs += 1;
                // Sizes are told by whoever submits: two that differ are no reason to count less.
                *bytes = (*bytes).max(size);
            }
        }
        Self(all)
    }

    fn bytes(&self) -> u64 {
        let sizes = self.0.values().map(|(_, bytes)| *bytes);
        sizes.fold(0, u64::saturating_add)
    }

    /// Bytes that nobody needs any more once one job fewer needs each of `digests`.
    fn let_go(&mut self, digests: &BTreeSet<&'a str>) -> u64 {
        let mut freed: u64 = 0;
        for digest in digests {
            if let Some((jobs, bytes)) = self.0.get_mut(digest) {
                *jobs = jobs.saturating_sub(1);
                if *jobs == 0 {
                    freed = freed.saturating_add(std::mem::take(bytes));
                }
            }
        }
        freed
    }
}
