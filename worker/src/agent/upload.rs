//! Uploads what the training process saves to the coordinator.
//!
//! A failed upload is reported in the job's log and tried again. A checkpoint is left out when a
//! newer one waits; the final adapter never is.

use std::sync::Arc;

use qlora_client::retry::{Backoff, Policy, until_answered};
use qlora_client::transfer::{self, By, unwatched};
use qlora_client::{Archive, Client, TransferError};
use qlora_proto::{ArtifactKind, CommitArtifactRequest, JobArtifact, LogLevel};
use tokio::sync::mpsc;

use super::current::Current;
use super::outbox::Outbox;
use super::progress::line;
use super::saved::{Kind, Saved};
use super::stopping::{Stops, Urgency, told_to};

/// Times that a folder is looked at whose files change while they are uploaded.
const CHANGES: usize = 5;

/// Uploads what the child saves while it trains on.
pub struct Uploader {
    pub client: Client,
    pub session: Current,
    pub token: u64,
    /// The job's log, where trouble is told.
    pub outbox: Arc<Outbox>,
    pub stopping: Stops,
}

impl Uploader {
    /// # Errors
    /// Why the adapter could not be delivered. A checkpoint that could not be is told in the log,
    /// and the next one is uploaded all the same. The newest step that the coordinator has is given
    /// back.
    pub async fn run(
        self,
        mut saved: mpsc::UnboundedReceiver<Saved>,
    ) -> Result<Option<u64>, TransferError> {
        let mut delivered = None;
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
                Err(e) => self.tell(format!(
                    "the {} of step {} is not uploaded: {e}",
                    ArtifactKind::from(next.kind),
                    next.step
                )),
                Ok(()) => delivered = Some(next.step),
            }
        }
        Ok(delivered)
    }

    fn tell(&self, text: String) {
        tracing::warn!("{text}");
        self.outbox.log(line(LogLevel::Warn, text));
    }

    async fn send(&self, saved: &Saved) -> Result<(), TransferError> {
        let archive = self.uploaded(saved).await?;
        let kind = ArtifactKind::from(saved.kind);
        let artifact = JobArtifact {
            kind: kind.into(),
            name: format!("{kind}-{:06}.tar", saved.step),
            digest: archive.digest().into(),
            size: archive.size(),
            step: saved.step,
        };
        // Once it is committed, another attempt goes on after this step, and nobody could tell again
        // what came before it.
        if !self.outbox.told().await {
            let text = "reports of this attempt are not taken any more";
            return Err(TransferError::Refused(text.into()));
        }
        self.commit(artifact).await?;
        let done = saved.clone();
        let cleared = tokio::task::spawn_blocking(move || done.clear()).await;
        // It is delivered all the same. What stays goes with the attempt's folder.
        if let Err(fault) = cleared.unwrap_or_else(|e| Err(std::io::Error::other(e))) {
            tracing::warn!("{} cannot be removed: {fault}", saved.folder.display());
        }
        Ok(())
    }

    /// The archive of what was saved, once the coordinator has it. The archive is made on the way:
    /// there need be no room for it on the disk.
    ///
    /// # Errors
    /// Also that a file is written again and again meanwhile; it is named.
    async fn uploaded(&self, saved: &Saved) -> Result<Archive, TransferError> {
        let session = || self.session.get();
        let by = Some(By {
            token: self.token,
            session: &session,
        });
        let (mut stopping, mut backoff, mut tries) =
            (self.stopping.clone(), Backoff::new(Policy::CALL), 1);
        loop {
            let folder = saved.folder.clone();
            let made = tokio::task::spawn_blocking(move || Archive::of(&folder)).await;
            let sent = match made.unwrap_or_else(|e| Err(TransferError::Refused(e.to_string()))) {
                Ok(archive) => {
                    let sent =
                        transfer::upload_folder(&self.client, &archive, by, &unwatched).await;
                    sent.map(|()| archive)
                }
                Err(fault) => Err(fault),
            };
            match sent {
                Err(fault @ TransferError::Changed { .. }) if tries < CHANGES => {
                    self.tell(format!("{fault}; it is uploaded again"));
                    tries += 1;
                    tokio::select! {
                        () = backoff.wait() => {},
                        // An attempt that ends has no time to wait.
                        () = told_to(&mut stopping, Urgency::Save) => {},
                    }
                }
                sent => return sent,
            }
        }
    }

    async fn commit(&self, artifact: JobArtifact) -> Result<(), TransferError> {
        let committed = until_answered(|| {
            let mut client = self.client.workers.clone();
            let request = CommitArtifactRequest {
                session: self.session.get(),
                token: self.token,
                artifact: Some(artifact.clone()),
            };
            async move { client.commit_artifact(request).await }
        });
        match committed.await {
            Ok(_) => Ok(()),
            Err(status) => Err(TransferError::Refused(status.message().to_owned())),
        }
    }
}
