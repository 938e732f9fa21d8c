//! The ended jobs that lie in the store alone, by number, by when they ended, and what they need.

use std::collections::{BTreeMap, BTreeSet};

use super::needed::Needed;
use crate::ended::Ended;
use crate::ids::{JobId, Millis};
use crate::job::Final;
use crate::prune::Prune;

/// Ended jobs in brief.
#[derive(Debug, Default)]
pub(super) struct EndedJobs {
    all: BTreeMap<JobId, Ended>,
    /// The one that ended first is the first.
    order: BTreeSet<(Millis, JobId)>,
    needed: Needed<String>,
    /// How many ended in each way.
    counts: BTreeMap<Final, u64>,
}

impl EndedJobs {
    pub fn get(&self, id: JobId) -> Option<&Ended> {
        self.all.get(&id)
    }

    pub fn contains(&self, id: JobId) -> bool {
        self.all.contains_key(&id)
    }

    /// Adds a job whose owner's account has what it used.
    pub fn insert(&mut self, mut job: Ended) {
        self.remove(job.id);
        job.take_used();
        self.order.insert((job.at, job.id));
        let needed = job.needed();
        self.needed
            .add(needed.map(|(digest, bytes)| (digest.to_owned(), bytes)));
        *self.counts.entry(job.how).or_default() += 1;
        self.all.insert(job.id, job);
    }

    /// Takes a job out; whether it was there.
    pub fn remove(&mut self, id: JobId) -> bool {
        let Some(job) = self.all.remove(&id) else {
            return false;
        };
        self.order.remove(&(job.at, id));
        self.needed.remove(&job.let_go(Prune::Job));
        if let Some(count) = self.counts.get_mut(&job.how) {
            *count -= 1;
        }
        true
    }

    /// When each ended, and its number.
    pub fn order(&self) -> &BTreeSet<(Millis, JobId)> {
        &self.order
    }

    /// What they need of the artifact store.
    pub fn needed(&self) -> &Needed<String> {
        &self.needed
    }

    pub fn count(&self, how: Final) -> u64 {
        self.counts.get(&how).copied().unwrap_or_default()
    }
}
