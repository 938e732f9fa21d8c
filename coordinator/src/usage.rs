//! What the coordinator keeps on disk, in bytes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use qlora_store::{ArtifactStore, JobStore};
use tokio::sync::Mutex;

/// How long a measurement serves: every artifact has to be looked at for one.
const FRESH: Duration = Duration::from_secs(30);

/// Bytes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub database: u64,
    pub artifacts: u64,
}

/// Measures, and remembers what it found; cheap to clone.
#[derive(Clone)]
pub struct Disk {
    measure: Arc<dyn Fn() -> Usage + Send + Sync>,
    last: Arc<Mutex<Option<(Instant, Usage)>>>,
}

impl Disk {
    pub fn of(store: Arc<impl JobStore>, artifacts: ArtifactStore) -> Self {
        let measure = move || Usage {
            database: store.disk_bytes(),
            artifacts: artifacts.disk_bytes(),
        };
        Self {
            measure: Arc::new(measure),
            last: Arc::default(),
        }
    }

    /// What lies there now, or did within [`FRESH`].
    pub async fn usage(&self) -> Usage {
        // Others who ask meanwhile wait for this measurement instead of making one too.
        let mut last = self.last.lock().await;
        if let Some((at, usage)) = *last
            && at.elapsed() < FRESH
        {
            return usage;
        }
        let measure = self.measure.clone();
        let measured = tokio::task::spawn_blocking(move || measure()).await;
        let usage = measured.unwrap_or_default();
        *last = Some((Instant::now(), usage));
        usage
    }
}
