//! The worker's current session, which changes when the worker registers again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Shared by everything that speaks for the worker.
#[derive(Debug, Clone, Default)]
pub struct Current(Arc<AtomicU64>);

impl Current {
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub fn set(&self, session: u64) {
        self.0.store(session, Relaxed);
    }
}
