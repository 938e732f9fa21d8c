//! Which jobs a list asks for, and a page of it.

use qlora_engine::{Job, JobId};

/// Which jobs a list asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobQuery {
    /// Words of [`qlora_engine::JobState::word`]; jobs in every state where there is none.
    pub states: Option<Vec<&'static str>>,
    /// Jobs of smaller numbers than this one.
    pub before: JobId,
    /// So many at the most.
    pub limit: u32,
}

/// A page of jobs, newest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// Those that can be read; there may be fewer than were asked for though there are more.
    pub jobs: Vec<Job>,
    /// Where the next page begins: its jobs have smaller numbers. None where there is no more.
    pub next: Option<JobId>,
}

impl JobQuery {
    /// Cuts numbers of jobs to one page, and says where the next one begins. `found` is in no order,
    /// and has at least one number more than the limit where there are as many.
    pub(crate) fn cut(&self, mut found: Vec<JobId>) -> (Vec<JobId>, Option<JobId>) {
        found.sort_unstable_by(|a, b| b.cmp(a));
        // A state may be asked for twice.
        found.dedup();
        let limit = self.limit as usize;
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().copied().filter(|_| more);
        (found, next)
    }
}
