//! What can be deleted of an ended job. Which jobs it is, and what they free, is the engine's.

use serde::{Deserialize, Serialize};

/// How much of an ended job goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prune {
    /// All of it.
    Job,
    /// Its checkpoints and adapters; the job stays.
    Artifacts,
    /// Its metrics and its log; the job stays.
    Records,
}

/// What is gone of an ended job that itself stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    pub artifacts: bool,
    pub records: bool,
}
