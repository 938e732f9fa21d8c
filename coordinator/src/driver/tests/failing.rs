//! A store that fails, or waits, when a test tells it to.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use qlora_store::{
    Faults, Faulty, JobStore, JournalEntry, MemoryStore, StoreError, Stored, Unreadable, Write,
};
use tokio::sync::Semaphore;

pub type Failing = Faulty<Orders>;

/// Writes can be made to fail or to wait.
pub struct Orders {
    pub applied: AtomicU64,
    /// Writes that fail: from the first of these numbers on, so many of them.
    fails: Mutex<(u64, u64)>,
    /// They fail after all was stored.
    pub too_late: Mutex<bool>,
    pub gate: Semaphore,
    /// Jobs that cannot be read.
    pub unreadable: Mutex<Vec<Unreadable>>,
}

/// A store of which nothing fails yet.
pub fn failing() -> Arc<Failing> {
    Arc::new(Faulty::new(Orders {
        applied: AtomicU64::new(0),
        fails: Mutex::new((0, 0)),
        too_late: Mutex::new(false),
        gate: Semaphore::new(1_000_000),
        unreadable: Mutex::default(),
    }))
}

impl Orders {
    /// Of the next writes the one after `after` fails, and those after it up to `many`.
    pub fn fail(&self, after: u64, many: u64) {
        *self.fails.lock().expect("a lock") = (self.applied.load(SeqCst) + 1 + after, many);
    }
}

impl Faults for Orders {
    async fn apply(
        &self,
        kept: &MemoryStore,
        writes: Vec<Write>,
    ) -> Result<Vec<JournalEntry>, StoreError> {
        self.gate.acquire().await.expect("a gate").forget();
        let number = self.applied.fetch_add(1, SeqCst) + 1;
        let (first, many) = *self.fails.lock().expect("a lock");
        if !(first..first + many).contains(&number) {
            return kept.apply(writes).await;
        }
        if *self.too_late.lock().expect("a lock") {
            kept.apply(writes).await?;
            return Err(StoreError::Unsure {
                path: "here".into(),
                fault: "no answer".into(),
            });
        }
        Err(StoreError::DiskFull {
            path: "here".into(),
        })
    }

    fn told(&self, stored: Stored) -> Stored {
        let unreadable = self.unreadable.lock().expect("a lock").clone();
        Stored {
            unreadable,
            ..stored
        }
    }
}
