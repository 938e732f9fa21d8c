//! How attempts are carried out on this worker: what its owner says, and what its device needs.

use std::time::Duration;

use super::peers::Peers;
use crate::models::Allowed;

/// How an attempt is carried out on this worker.
#[derive(Debug, Clone)]
pub struct AttemptOptions {
    /// A training process that says nothing for longer is ended.
    pub patience: Option<Duration>,
    pub peers: Peers,
    pub allowed: Allowed,
    /// The GPU that the training process sees, where there may be several.
    pub gpu: Option<String>,
}
