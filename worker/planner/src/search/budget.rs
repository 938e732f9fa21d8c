//! Compares a run with the bytes that it may take.

use crate::estimate;
use crate::policy::MemoryPolicy;
use crate::run::Run;

/// A run, and the bytes that it may take.
pub(super) struct Search<'a> {
    pub run: Run<'a>,
    pub available: u64,
}

impl Search<'_> {
    pub fn fits(&self, policy: &MemoryPolicy) -> bool {
        estimate::plan(&self.run, policy).total() <= self.available
    }
}
