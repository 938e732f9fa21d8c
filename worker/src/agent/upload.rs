//! Brings what the training process saves to the coordinator.

use std::path::{Path, PathBuf};
use std::time::Duration;

use qlora_client::Client;
use qlora_client::transfer::{self, Source, TransferError, unwatched};
use qlora_proto::{CommitArtifactRequest, JobArtifact};
use tokio::sync::mpsc;
use tonic::Code;

const RETRY: Duration = Duration::from_millis(500);

/// A folder that the child has completed.
pub struct Saved {
    pub kind: &'static str,
    pub step: u64,
    pub folder: PathBuf,
}

/// Uploads what the child saves while it trains on.
pub struct Uploader {
    pub client: Client,
    pub session: u64,
    pub token: u64,
    /// Where archives are made.
    pub work: PathBuf,
}

impl Uploader {
    pub async fn run(self, mut saved: mpsc::UnboundedReceiver<Saved>) -> Result<(), TransferError> {
        while let Some(mut next) = saved.recv().await {
            // Of checkpoints that queued up while one was on its way, only the newest is of use.
            while let Ok(newer) = saved.try_recv() {
                if next.kind == "adapter" {
                    self.send(&next).await?;
                }
                next = newer;
            }
            self.send(&next).await?;
        }
        Ok(())
    }

    async fn send(&self, saved: &Saved) -> Result<(), TransferError> {
        let name = format!("{}-{:06}.tar", saved.kind, saved.step);
        let archive = self.work.join(&name);
        qlora_client::pack(&saved.folder, &archive)?;
        let (digest, size) = transfer::digest(&archive)?;
        let source = Source { path: &archive, digest: &digest, size, token: self.token };
        transfer::upload(&self.client, &source, &unwatched).await?;
        let artifact = JobArtifact { kind: saved.kind.into(), name, digest, size, step: saved.step };
        self.commit(artifact).await?;
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| TransferError::Io { path, source }
        };
        tokio::fs::remove_file(&archive).await.map_err(io(&archive))?;
        tokio::fs::remove_dir_all(&saved.folder).await.map_err(io(&saved.folder))
    }

    async fn commit(&self, artifact: JobArtifact) -> Result<(), TransferError> {
        let request = CommitArtifactRequest { session: self.session, token: self.token, artifact: Some(artifact) };
        let mut client = self.client.workers.clone();
        loop {
            match client.commit_artifact(request.clone()).await {
                Ok(_) => return Ok(()),
                Err(s) if matches!(s.code(), Code::Unavailable | Code::Unknown | Code::Cancelled) => {
                    tokio::time::sleep(RETRY).await
                }
                Err(s) => return Err(TransferError::Refused(s.message().to_owned())),
            }
        }
    }
}
