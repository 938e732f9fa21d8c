//! What the coordinator keeps, in bytes: the database on its disk, and artifacts where they lie.
//!
//! To count them takes as long as a large bucket takes to list. Whoever asks does not wait for that.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qlora_store::{ArtifactStore, JobStore};
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

/// How long a measurement serves: every artifact has to be looked at for one.
const FRESH: Duration = Duration::from_secs(30);
/// How long a measurement is waited for; after that the one before is told.
const PATIENCE: Duration = Duration::from_secs(1);

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
    last: watch::Sender<Option<(Instant, Usage)>>,
    /// Held by the measurement that is under way.
    measuring: Arc<Mutex<()>>,
}

impl Disk {
    pub fn of(store: Arc<impl JobStore>, artifacts: ArtifactStore) -> Self {
        Self::measuring(move || Box::pin(measure(store.clone(), artifacts.clone())))
    }

    fn measuring(measure: impl Fn() -> Measuring + Send + Sync + 'static) -> Self {
        Self {
            measure: Arc::new(measure),
            last: watch::Sender::new(None),
            measuring: Arc::default(),
        }
    }

    /// What lies there now, or did within [`FRESH`]; where that takes longer to find out than
    /// [`PATIENCE`], what was found last. None before the first measurement has ended.
    pub async fn usage(&self) -> Option<Usage> {
        let is_fresh = |last: &Option<(Instant, Usage)>| {
            last.as_ref().is_some_and(|(at, _)| at.elapsed() < FRESH)
        };
        let mut told = self.last.subscribe();
        if !is_fresh(&told.borrow()) {
            self.begin();
            // Late or not: what there is is told.
            let _ = timeout(PATIENCE, told.wait_for(is_fresh)).await;
        }
        let last = *told.borrow();
        last.map(|(_, usage)| usage)
    }

    /// Begins a measurement, unless one is under way.
    fn begin(&self) {
        let Ok(alone) = self.measuring.clone().try_lock_owned() else {
            return;
        };
        let own = self.clone();
        tokio::spawn(async move {
            let measured = (own.measure)().await;
            own.last.send_modify(|last| {
                let before = last.map_or(0, |(_, usage)| usage.artifacts);
                let usage = Usage {
                    database: measured.database,
                    artifacts: measured.artifacts.unwrap_or(before),
                };
                *last = Some((Instant::now(), usage));
            });
            drop(alone);
        });
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

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    /// As the first listing of a large bucket.
    #[tokio::test]
    async fn nobody_waits_for_a_measurement_that_takes_long_and_it_is_made_once() {
        let (begun, ends) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (begins, end) = (begun.clone(), ends.clone());
        let disk = Disk::measuring(move || {
            begins.add_permits(1);
            let end = end.clone();
            Box::pin(async move {
                end.acquire().await.expect("an end").forget();
                Measured {
                    database: 1,
                    artifacts: Some(2),
                }
            })
        });
        let (first, second) = tokio::join!(disk.usage(), disk.usage());
        assert_eq!((first, second), (None, None));
        assert_eq!(begun.available_permits(), 1);
        let mut told = disk.last.subscribe();
        ends.add_permits(1);
        told.changed().await.expect("a measurement");
        let usage = Usage {
            database: 1,
            artifacts: 2,
        };
        assert_eq!(disk.usage().await, Some(usage));
        assert_eq!(begun.available_permits(), 1);
    }
}
