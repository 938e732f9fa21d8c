//! All jobs, and the earlier state of those that changed.

use std::collections::BTreeMap;

use crate::ids::JobId;
use crate::job::Job;

/// Jobs by their number. Every way to change one passes here, so that no change is missed.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    all: BTreeMap<JobId, Job>,
    /// Changed since [`Self::settled`]; none where there was no such job.
    before: BTreeMap<JobId, Option<Job>>,
}

impl Jobs {
    pub fn get(&self, id: &JobId) -> Option<&Job> {
        self.all.get(id)
    }

    pub fn get_mut(&mut self, id: &JobId) -> Option<&mut Job> {
        let job = self.all.get_mut(id)?;
        self.before.entry(*id).or_insert_with(|| Some(job.clone()));
        Some(job)
    }

    /// Adds a job that is new.
    pub fn insert(&mut self, job: Job) {
        self.before.entry(job.id).or_insert(None);
        self.all.insert(job.id, job);
    }

    /// Adds a job that is durable already.
    pub fn adopt(&mut self, job: Job) {
        self.all.insert(job.id, job);
    }

    /// Removes a job for good.
    pub fn remove(&mut self, id: JobId) {
        if let Some(job) = self.all.remove(&id) {
            self.before.entry(id).or_insert(Some(job));
        }
    }

    /// Removes a job, as if it had never been.
    pub fn forget(&mut self, id: JobId) -> Option<Job> {
        self.all.remove(&id)
    }

    pub fn values(&self) -> impl DoubleEndedIterator<Item = &Job> {
        self.all.values()
    }

    /// All jobs as they are now are durable.
    pub fn settled(&mut self) {
        self.before.clear();
    }

    /// What jobs were that changed since [`Self::settled`].
    pub fn take_changes(&mut self) -> BTreeMap<JobId, Option<Job>> {
        std::mem::take(&mut self.before)
    }
}
