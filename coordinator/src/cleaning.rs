//! Removes what nobody needs any more: parts of interrupted uploads, and artifacts that no job has.
//!
//! An artifact that somebody was told of stays for a day: a job that needs it may be on its way.

use std::collections::HashSet;
use std::time::Duration;

use qlora_store::{ArtifactStore, Digest256};

use crate::driver::{Artifacts, Handle};

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
        tokio::task::spawn_blocking(move || store.release(&digest));
    }
}

pub async fn run(driver: Handle, artifacts: ArtifactStore) {
    let mut interval = tokio::time::interval(EVERY);
    loop {
        interval.tick().await;
        artifacts.clean();
        // What a job needs that cannot be read is not known.
        if driver.has_unreadable() {
            continue;
        }
        let needed = driver.read(|engine| {
            engine
                .jobs()
                .flat_map(|job| job.digests())
                .map(str::to_owned)
                .collect()
        });
        let Ok::<HashSet<String>, _>(needed) = needed.await else {
            return;
        };
        let store = artifacts.clone();
        let swept =
            tokio::task::spawn_blocking(move || store.sweep(&|digest| needed.contains(digest)))
                .await;
        match swept {
            Ok(Ok(0)) | Err(_) => {}
            Ok(Ok(removed)) => tracing::info!(removed, "artifacts were removed that no job needs"),
            Ok(Err(e)) => tracing::warn!("artifacts that no job needs cannot be looked for: {e}"),
        }
    }
}
