//! Which ended jobs go by age, number and bytes, what they free, and how a part of one goes.
//!
//! Jobs that have not ended are never among them.

use std::collections::{BTreeSet, HashMap};

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
        let mut all: Vec<(Millis, JobId)> = self.jobs.values().filter_map(ended).collect();
        all.sort_unstable();
        all.truncate(all.len().saturating_sub(keep));
        let has_it = |id: &JobId| self.jobs.get(id).is_some_and(|job| has(job, what));
        let old = all.into_iter().filter(|(at, _)| *at <= until);
        old.map(|(_, id)| id).filter(has_it).collect()
    }

    /// The ended jobs that have to go for all jobs together to need no more than `bytes` of the
    /// artifact store; the one that ended first is the first. Where the jobs that have not ended
    /// need more by themselves, all of them.
    pub fn beyond_bytes(&self, bytes: u64) -> Vec<JobId> {
        let mut needed = Needed::of(self.jobs.values());
        let mut left = needed.bytes();
        let mut gone = Vec::new();
        for id in self.prunable(Prune::Job, Millis(u64::MAX), 0) {
            if left <= bytes {
                break;
            }
            // One without artifacts and files is in nobody's way.
            let stored = self
                .jobs
                .get(&id)
                .filter(|job| job.digests().next().is_some());
            if let Some(job) = stored {
                left = left.saturating_sub(needed.let_go(job, Prune::Job));
                gone.push(id);
            }
        }
        gone
    }

    /// Bytes of the artifact store that each of `ids` frees when `what` of them goes in this order:
    /// what several need is freed by the last of them, and what others need by none.
    pub fn freed(&self, what: Prune, ids: &[JobId]) -> Vec<u64> {
        let mut needed = Needed::of(self.jobs.values());
        let jobs = ids.iter().map(|id| self.jobs.get(id));
        jobs.map(|job| job.map_or(0, |job| needed.let_go(job, what)))
            .collect()
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

/// Digests that `job` needs no more once `what` of it is gone, each once.
fn let_go_by(job: &Job, what: Prune) -> BTreeSet<&str> {
    let given: BTreeSet<&str> = job.spec.files.iter().map(|f| f.digest.as_str()).collect();
    let made = job.artifacts.iter().map(|a| a.digest.as_str());
    match what {
        Prune::Job => job.digests().collect(),
        Prune::Artifacts => made.filter(|digest| !given.contains(digest)).collect(),
        Prune::Records => BTreeSet::new(),
    }
}

/// What jobs need of the artifact store: how many need each digest, and its bytes.
struct Needed<'a>(HashMap<&'a str, (usize, u64)>);

impl<'a> Needed<'a> {
    fn of(jobs: impl Iterator<Item = &'a Job>) -> Self {
        let mut all: HashMap<&'a str, (usize, u64)> = HashMap::new();
        for job in jobs {
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

    /// Bytes that nobody needs any more once `what` of `job` is gone.
    fn let_go(&mut self, job: &Job, what: Prune) -> u64 {
        let mut freed: u64 = 0;
        for digest in let_go_by(job, what) {
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
