//! The jobs that are at hand, the earlier state of those that changed, and the ended ones in brief.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::ended_jobs::EndedJobs;
use crate::ended::Ended;
use crate::ids::JobId;
use crate::job::Job;

/// Jobs by their number. Every way to change one passes here, so that no change is missed.
///
/// A job that has not ended is at hand. One that has ended is at hand or away, and never both.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    all: BTreeMap<JobId, Job>,
    /// Changed since [`Self::settled`]; none where there was no such job.
    before: BTreeMap<JobId, Option<Job>>,
    /// Those at hand that may have ended since [`Self::put_ended_away`].
    touched: BTreeSet<JobId>,
    ended: EndedJobs,
}

impl Jobs {
    pub fn get(&self, id: &JobId) -> Option<&Job> {
        self.all.get(id)
    }

    pub fn get_mut(&mut self, id: &JobId) -> Option<&mut Job> {
        let job = self.all.get_mut(id)?;
        self.before.entry(*id).or_insert_with(|| Some(job.clone()));
        self.touched.insert(*id);
        Some(job)
    }

    /// Adds a job that is new.
    pub fn insert(&mut self, job: Job) {
        self.before.entry(job.id).or_insert(None);
        self.all.insert(job.id, job);
    }

    /// Adds a job that is durable already.
    pub fn adopt(&mut self, job: Job) {
        self.touched.insert(job.id);
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

    /// Those at hand.
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

    /// The ended jobs that are away.
    pub fn ended(&self) -> &EndedJobs {
        &self.ended
    }

    /// The ended job `id` in brief, be it away or at hand; none where it has not ended.
    pub fn brief(&self, id: JobId) -> Option<Cow<'_, Ended>> {
        let away = self.ended.get(id).map(Cow::Borrowed);
        away.or_else(|| self.all.get(&id).and_then(Ended::of).map(Cow::Owned))
    }

    pub fn is_away(&self, id: JobId) -> bool {
        self.ended.contains(id)
    }

    /// Adds an ended job that is durable and not at hand; whether it was not known.
    pub fn adopt_ended(&mut self, job: Ended) -> bool {
        let is_new = !self.all.contains_key(&job.id) && !self.ended.contains(job.id);
        if is_new {
            self.ended.insert(job);
        }
        is_new
    }

    /// A job that is away comes to hand.
    pub fn recall(&mut self, job: Job) {
        if self.ended.remove(job.id) {
            self.adopt(job);
        }
    }

    /// Ended jobs go away, but for those whose change is not settled.
    pub fn put_ended_away(&mut self) {
        let mut waiting = BTreeSet::new();
        for id in std::mem::take(&mut self.touched) {
            if self.before.contains_key(&id) {
                waiting.insert(id);
            } else if let Some(ended) = self.all.get(&id).and_then(Ended::of) {
                self.all.remove(&id);
                self.ended.insert(ended);
            }
        }
        self.touched = waiting;
    }
}
