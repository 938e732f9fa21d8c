//! Brings what the training process saves to the coordinator.
//!
//! Trouble on the way is told in the job's log and tried again. A checkpoint that is of no use any more because a newer
//! one waits is left out; the adapter at the end never is.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use qlora_client::retry::{Backoff, Verdict, judge};
use qlora_client::transfer::{self, By, Source, TransferError, unwatched};
use qlora_proto::{CommitArtifactRequest, JobArtifact};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::attempt::told_to_stop;
use super::delivery::Delivery;
use super::progress::line;
use super::saved::{Kind, Saved};

/// Wait before what the disk had no room for is packed again.
const FULL_WAIT: Duration = Duration::from_secs(15);
/// How long room is waited for before the job goes to another worker.
const FULL_PATIENCE: Duration = Duration::from_secs(600);

/// Uploads what the child saves while it trains on.
pub struct Uploader(pub Delivery);

impl Uploader {
    /// # Errors
    /// Why the adapter could not be delivered. A checkpoint that could not be is told in the log, and the next one is
    /// uploaded all the same.
    pub async fn run(self, mut saved: mpsc::UnboundedReceiver<Saved>) -> Result<(), TransferError> {
        while let Some(mut next) = saved.recv().await {
            // Of checkpoints that queued up while one was on its way, only the newest is of use.
            while let Ok(newer) = saved.try_recv() {
                if next.kind == Kind::Adapter {
                    self.send(&next).await?;
                }
                next = newer;
            }
            match self.send(&next).await {
                Err(e) if next.kind == Kind::Adapter => return Err(e),
                Err(e) => self.tell(format!("the {} of step {} is not uploaded: {e}", next.kind.word(), next.step)),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn tell(&self, text: String) {
        tracing::warn!("{text}");
        self.0.outbox.log(line("warn", text));
    }

    async fn send(&self, saved: &Saved) -> Result<(), TransferError> {
        let name = format!("{}-{:06}.tar", saved.kind.word(), saved.step);
        let archive = self.0.folder.join(&name);
        let (digest, size) = self.packed(saved, &archive).await?;
        let session = || self.0.session.get();
        let by = Some(By { token: self.0.token, session: &session });
        transfer::upload(&self.0.client, &Source { path: &archive, digest: &digest, size, by }, &unwatched).await?;
        let artifact = JobArtifact { kind: saved.kind.word().into(), name, digest, size, step: saved.step };
        self.commit(artifact).await?;
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| TransferError::Io { path, source }
        };
        tokio::fs::remove_file(&archive).await.map_err(io(&archive))?;
        let (done, folder) = (saved.clone(), saved.folder.clone());
        let clear = tokio::task::spawn_blocking(move || done.clear()).await;
        clear.unwrap_or_else(|e| Err(std::io::Error::other(e))).map_err(io(&folder))
    }

    /// The archive, its digest and its size; waits while the disk is full, for as long as the attempt may go on and no
    /// longer than [`FULL_PATIENCE`].
    async fn packed(&self, saved: &Saved, archive: &Path) -> Result<(String, u64), TransferError> {
        let patient_until = Instant::now() + FULL_PATIENCE;
        let mut stopping = self.0.stopping.clone();
        loop {
            let (folder, to) = (saved.folder.clone(), archive.to_owned());
            let made = tokio::task::spawn_blocking(move || {
                qlora_client::pack(&folder, &to)?;
                transfer::digest(&to)
            });
            match made.await.unwrap_or_else(|e| Err(TransferError::Refused(e.to_string()))) {
                Err(TransferError::Io { path, source }) if source.kind() == ErrorKind::StorageFull => {
                    let wait = FULL_WAIT.as_secs();
                    self.tell(format!("no room on the worker's disk for {}; trying again in {wait} s", path.display()));
                    let stops = tokio::select! {
                        () = tokio::time::sleep(FULL_WAIT) => Instant::now() > patient_until,
                        () = told_to_stop(&mut stopping) => true,
                    };
                    if stops {
                        return Err(TransferError::Io { path, source });
                    }
                }
                made => return made,
            }
        }
    }

    async fn commit(&self, artifact: JobArtifact) -> Result<(), TransferError> {
        let mut client = self.0.client.workers.clone();
        let mut backoff = Backoff::default();
        loop {
            let (session, artifact) = (self.0.session.get(), Some(artifact.clone()));
            let request = CommitArtifactRequest { session, token: self.0.token, artifact };
            match client.commit_artifact(request).await {
                Ok(_) => return Ok(()),
                Err(status) if matches!(judge(&status), Verdict::Over | Verdict::Refused) => {
                    return Err(TransferError::Refused(status.message().to_owned()));
                }
                Err(_) => backoff.wait().await,
            }
        }
    }
}
