//! Removes what nobody needs any more: parts of interrupted uploads, artifacts that no job has, ended
//! jobs beyond what is kept, and workers that do not come back.
//!
//! An artifact that somebody was told of stays for a day: a job that needs it may be on its way.

use std::collections::HashSet;
use std::time::Duration;

use qlora_store::{ArtifactStore, Digest256, JobStore};

use crate::clock::now;
use crate::driver::{Artifacts, Handle};
use crate::error::CallError;
use crate::prune::Retention;
use crate::services::{Services, take_off_the_gone};

/// How often it is looked for.
const EVERY: Duration = Duration::from_secs(3600);

impl Artifacts for ArtifactStore {
    fn make_room(&self) {
        Self::make_room(self);
    }

    fn release(&self, digest: &str) {
        let Ok(digest) = digest.parse::<Digest256>() else {
            return;
        };
        let store = self.clone();
        tokio::spawn(async move { store.release(&digest).await });
    }
}

/// Cleans at once and then each hour, until the coordinator stops.
pub async fn run<S: JobStore>(services: Services<S>, retention: Retention) {
    let mut interval = tokio::time::interval(EVERY);
    loop {
        interval.tick().await;
        if let Err(CallError::Stopping) = clean(&services, retention).await {
            return;
        }
    }
}

async fn clean<S: JobStore>(services: &Services<S>, retention: Retention) -> Result<(), CallError> {
    services.artifacts.clean().await;
    take_off_the_gone(&services.driver).await?;
    // What a job needs that cannot be read is not known.
    if services.driver.has_unreadable() {
        return Ok(());
    }
    retain(services, retention).await?;
    sweep(&services.driver, &services.artifacts).await
}

/// Lets ended jobs go that are beyond what is kept, one by one.
async fn retain<S: JobStore>(
    services: &Services<S>,
    retention: Retention,
) -> Result<(), CallError> {
    if !retention.is_set() {
        return Ok(());
    }
    let at = now().wall;
    let driver = &services.driver;
    let chosen = driver.read(move |engine| retention.choose(engine, at));
    let (mut jobs, mut bytes) = (0u64, 0u64);
    for going in chosen.await? {
        let freed = going.artifact_bytes;
        match going.go(driver, None).await {
            Ok(true) => {
                jobs += 1;
                bytes += freed;
            }
            Ok(false) => {}
            Err(CallError::Stopping) => return Err(CallError::Stopping),
            // The next hour tries again.
            Err(fault) => {
                tracing::warn!("ended jobs beyond what is kept stay for now: {fault}");
                break;
            }
        }
    }
    if jobs > 0 {
        tracing::info!(jobs, bytes, "ended jobs beyond what is kept were deleted");
    }
    Ok(())
}

/// Removes artifacts that no job has.
async fn sweep(driver: &Handle, artifacts: &ArtifactStore) -> Result<(), CallError> {
    let needed: HashSet<String> = driver
        .read(|engine| engine.digests().map(str::to_owned).collect())
        .await?;
    match artifacts.sweep(|digest| needed.contains(digest)).await {
        Ok(0) => {}
        Ok(removed) => tracing::info!(removed, "artifacts were removed that no job needs"),
        Err(e) => tracing::warn!("artifacts that no job needs cannot be looked for: {e}"),
    }
    Ok(())
}
