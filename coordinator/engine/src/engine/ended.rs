//! The ended jobs that lie in the store alone, by number, by when they ended, and what they need.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::ended::{Ended, Final};
use crate::ids::{JobId, Millis};

/// Ended jobs in brief.
#[derive(Debug, Default)]
pub(super) struct EndedJobs {
    all: BTreeMap<JobId, Ended>,
    /// The one that ended first is the first.
    order: BTreeSet<(Millis, JobId)>,
    /// How many of them need a digest, and its bytes.
    needed: HashMap<String, (usize, u64)>,
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
        for (digest, size) in each_once(&job) {
            let (jobs, bytes) = self.needed.entry(digest.to_owned()).or_default();
            *jobs += 1;
            // Sizes are told by whoever submits: two that differ are no reason to count less.
            *bytes = (*bytes).max(size);
        }
        *self.counts.entry(job.how).or_default() += 1;
        self.all.insert(job.id, job);
    }

    /// Takes a job out; whether it was there.
    pub fn remove(&mut self, id: JobId) -> bool {
        let Some(job) = self.all.remove(&id) else {
            return false;
        };
        self.order.remove(&(job.at, id));
        for (digest, _) in each_once(&job) {
            if let Some((jobs, _)) = self.needed.get_mut(digest) {
                *jobs -= 1;
                if *jobs == 0 {
                    self.needed.remove(digest);
                }
            }
        }
        if let Some(count) = self.counts.get_mut(&job.how) {
            *count -= 1;
        }
        true
    }

    /// When each ended, and its number.
    pub fn order(&self) -> &BTreeSet<(Millis, JobId)> {
        &self.order
    }

    /// What they need of the artifact store: how many need each digest, and its bytes.
    pub fn needed(&self) -> &HashMap<String, (usize, u64)> {
        &self.needed
    }

    pub fn count(&self, how: Final) -> u64 {
        self.counts.get(&how).copied().unwrap_or_default()
    }
}

/// What `job` needs, each digest once and with its greatest size.
fn each_once(job: &Ended) -> BTreeMap<&str, u64> {
    let mut all = BTreeMap::new();
    for (digest, size) in job.needed() {
        let bytes: &mut u64 = all.entry(digest).or_default();
        *bytes = size.max(*bytes);
    }
    all
}
