//! Removes what nobody needs any more: parts of interrupted uploads, artifacts that no job has, ended
//! jobs beyond what is kept, and workers that do not come back.
//!
//! An artifact that somebody was told of stays for a day: a job that needs it may be on its way. It is
//! removed while no other coordinator can begin to lead, once the engine has said again that no job
//! needs it: by then what was referred to before is known, and what is referred to later is not found.

use std::collections::HashSet;
use std::time::Duration;

use qlora_store::{ArtifactStore, Digest256, JobStore, StoreError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::clock::now;
use crate::driver::Artifacts;
use crate::error::CallError;
use crate::prune::Retention;
use crate::services::{Services, take_off_the_gone};

/// How often it is looked for.
const EVERY: Duration = Duration::from_secs(3600);

/// What the driver lets go, on its way to [`remove_released`].
pub struct Released {
    artifacts: ArtifactStore,
    digests: UnboundedSender<Digest256>,
}

impl Released {
    pub fn of(artifacts: ArtifactStore) -> (Self, UnboundedReceiver<Digest256>) {
        let (digests, going) = unbounded_channel();
        (Self { artifacts, digests }, going)
    }
}

impl Artifacts for Released {
    fn make_room(&self) {
        self.artifacts.make_room();
    }

    fn release(&self, digest: &str) {
        if let Ok(digest) = digest.parse() {
            // Where nobody removes any more, the next start does.
            let _ = self.digests.send(digest);
        }
    }
}

/// Removes what the driver lets go.
pub async fn remove_released<S: JobStore>(
    services: Services<S>,
    mut going: UnboundedReceiver<Digest256>,
) {
    while let Some(digest) = going.recv().await {
        remove(&services, &digest).await;
    }
}

/// Removes an artifact that no job needs, while this coordinator leads; whether it did.
async fn remove<S: JobStore>(services: &Services<S>, digest: &Digest256) -> bool {
    let (driver, name) = (services.driver.clone(), digest.to_string());
    let is_needed = async move {
        let needed = driver.read(move |engine| engine.needs(&name)).await;
        needed.unwrap_or(true) || driver.has_unreadable()
    };
    let (artifacts, name) = (services.artifacts.clone(), digest.clone());
    let removal = async move { artifacts.release(&name, is_needed).await };
    let removed = services.store.while_leading(removal).await;
    removed.unwrap_or_else(|e| {
        match e {
            StoreError::Unheld { .. } => tracing::warn!("artifact {digest}: {e}"),
            _ => tracing::warn!("artifact {digest}, which no job needs, stays for now: {e}"),
        }
        false
    })
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
    sweep(services).await
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
async fn sweep<S: JobStore>(services: &Services<S>) -> Result<(), CallError> {
    let needed: HashSet<String> = services
        .driver
        .read(|engine| engine.digests().map(str::to_owned).collect())
        .await?;
    let needed = &needed;
    let unless_needed = |digest: Digest256| async move {
        !needed.contains(&digest.to_string()) && remove(services, &digest).await
    };
    match services.artifacts.sweep(unless_needed).await {
        Ok(0) => {}
        Ok(removed) => tracing::info!(removed, "artifacts were removed that no job needs"),
        Err(e) => tracing::warn!("artifacts that no job needs cannot be looked for: {e}"),
    }
    Ok(())
}
