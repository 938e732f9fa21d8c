//! Which jobs wait for which. What follows from an end is not decided here.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::JobId;
use crate::job::Job;

/// By a job that has not ended, those that wait for it.
#[derive(Debug, Default)]
pub(super) struct Dependents(BTreeMap<JobId, BTreeSet<JobId>>);

impl Dependents {
    pub fn insert(&mut self, job: &Job) {
        for other in &job.waits_for {
            self.0.entry(*other).or_default().insert(job.id);
        }
    }

    pub fn remove(&mut self, job: &Job) {
        for other in &job.waits_for {
            if let Some(waiting) = self.0.get_mut(other) {
                waiting.remove(&job.id);
                if waiting.is_empty() {
                    self.0.remove(other);
                }
            }
        }
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Those that wait for `id`, which do no longer.
    pub fn take(&mut self, id: JobId) -> BTreeSet<JobId> {
        self.0.remove(&id).unwrap_or_default()
    }
}
