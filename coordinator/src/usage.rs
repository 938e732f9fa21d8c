//! What the coordinator keeps, in bytes: the database on its disk, and artifacts where they lie.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qlora_store::{ArtifactStore, JobStore};
use tokio::sync::Mutex;

/// How long a measurement serves: every artifact has to be looked at for one.
const FRESH: Duration = Duration::from_secs(30);

/// Bytes that are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub database: u64,
    pub artifacts: u64,
}

/// What one measurement found.
struct Measured {
    database: u64,
    /// None where nobody could tell.
    artifacts: Option<u64>,
}

type Measuring = Pin<Box<dyn Future<Output = Measured> + Send>>;

/// Measures, and remembers what it found; cheap to clone.
#[derive(Clone)]
pub struct Disk {
    measure: Arc<dyn Fn() -> Measuring + Send + Sync>,
    last: Arc<Mutex<Option<(Instant, Usage)>>>,
}

impl Disk {
    pub fn of(store: Arc<impl JobStore>, artifacts: ArtifactStore) -> Self {
        let measure = move || -> Measuring { Box::pin(measure(store.clone(), artifacts.clone())) };
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
        let measured = (self.measure)().await;
        let before = last.map_or(0, |(_, usage)| usage.artifacts);
        let usage = Usage {
            database: measured.database,
            artifacts: measured.artifacts.unwrap_or(before),
        };
        *last = Some((Instant::now(), usage));
        usage
    }
}

async fn measure(store: Arc<impl JobStore>, artifacts: ArtifactStore) -> Measured {
    // It waits for the disk.
    let database = tokio::task::spawn_blocking(move || store.disk_bytes()).await;
    let artifacts = artifacts
        .bytes()
        .await
        .inspect_err(|e| tracing::warn!("the last known bytes of artifacts are told: {e}"));
    Measured {
        database: database.unwrap_or_default(),
        artifacts: artifacts.ok(),
    }
}
