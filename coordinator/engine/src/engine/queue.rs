//! Jobs that wait for a worker, in the order in which workers are offered them.
//!
//! Whether a job may start yet, and on whom, is not judged here.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use crate::ids::JobId;
use crate::job::Job;

/// Greater priorities first, and jobs of one priority by their number.
#[derive(Debug, Default)]
pub(super) struct Queue {
    order: BTreeSet<(Reverse<i32>, JobId)>,
    priorities: HashMap<JobId, i32>,
}

impl Queue {
    pub fn insert(&mut self, job: &Job) {
        self.order.insert((Reverse(job.spec.priority), job.id));
        self.priorities.insert(job.id, job.spec.priority);
    }

    pub fn remove(&mut self, id: JobId) {
        if let Some(priority) = self.priorities.remove(&id) {
            self.order.remove(&(Reverse(priority), id));
        }
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The jobs in their order.
    pub fn iter(&self) -> impl Iterator<Item = &JobId> {
        self.order.iter().map(|(_, id)| id)
    }

    /// How many jobs are before `id`; none for one that does not wait.
    pub fn before(&self, id: JobId) -> usize {
        let place = self.priorities.get(&id);
        place.map_or(0, |&priority| {
            self.order.range(..(Reverse(priority), id)).count()
        })
    }
}
