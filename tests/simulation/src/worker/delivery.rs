//! Brings what an attempt made to the coordinator: reports and saved files, then how it ended.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use qlora_client::Client;
use qlora_client::retry::until_answered;
use qlora_engine::ArtifactKind;
use qlora_proto::{CommitArtifactRequest, FinishRequest, JobArtifact, Outcome};
use tokio::sync::mpsc;
use tonic::Status;

use super::outbox::{Current, Outbox};
use super::{Machine, Saved};
use crate::clocks::now;
use crate::upload::{digest, upload};

/// The way from an attempt to the coordinator.
pub struct Delivery {
    pub machine: Arc<Machine>,
    pub client: Client,
    pub session: Current,
    pub job: u64,
    pub token: u64,
    pub outbox: Arc<Outbox>,
}

impl Delivery {
    /// A request that was sent at `sent` was taken.
    pub fn acknowledged(&self, sent: Duration) {
        self.machine
            .witness
            .acknowledges(self.job, self.token, sent);
    }

    /// Delivers what is sent to it. Of checkpoints that queued up only the newest is of use.
    ///
    /// # Errors
    /// The result is not taken.
    pub async fn upload_all(
        &self,
        mut saved: mpsc::UnboundedReceiver<Saved>,
    ) -> Result<(), Status> {
        while let Some(mut next) = saved.recv().await {
            while let Ok(newer) = saved.try_recv() {
                if next.kind == ArtifactKind::Adapter {
                    self.deliver(next).await?;
                }
                next = newer;
            }
            match self.deliver(next).await {
                Err(fault) if next.kind == ArtifactKind::Adapter => return Err(fault),
                Err(fault) => self.machine.note(format!(
                    "its {} of step {} of job {} is not taken: {}",
                    next.kind,
                    next.step,
                    self.job,
                    fault.message()
                )),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    async fn deliver(&self, saved: Saved) -> Result<(), Status> {
        let Saved { kind, step } = saved;
        // Whoever trains a job to a step gets the same bytes.
        let bytes = format!("{kind} of step {step} of job {}", self.job).into_bytes();
        let digest = digest(&bytes);
        let by = || (self.token, self.session.load(Relaxed));
        upload(&self.client, &digest, &bytes, by).await?;
        if !self.outbox.told().await {
            return Err(Status::failed_precondition("reports are refused"));
        }
        let artifact = JobArtifact {
            kind: kind.to_string(),
            name: format!("{kind}-{step:06}.tar"),
            digest,
            size: bytes.len() as u64,
            step,
        };
        let sent = until_answered(|| {
            let mut client = self.client.workers.clone();
            let request = CommitArtifactRequest {
                session: self.session.load(Relaxed),
                token: self.token,
                artifact: Some(artifact.clone()),
            };
            async move {
                let sent = now();
                client.commit_artifact(request).await.map(|_| sent)
            }
        });
        let sent = sent.await?;
        self.acknowledged(sent);
        self.machine
            .witness
            .committed(self.job, self.token, (kind, step));
        Ok(())
    }

    /// Tells the coordinator how the attempt ended, trying until it knows.
    pub async fn finish(&self, outcome: Outcome, message: &str) {
        if !self.outbox.told().await {
            return self.machine.note("its attempt is refused");
        }
        let told = until_answered(|| {
            let mut client = self.client.workers.clone();
            let request = FinishRequest {
                session: self.session.load(Relaxed),
                token: self.token,
                outcome: outcome.into(),
                message: message.to_owned(),
                code: String::new(),
            };
            async move {
                let sent = now();
                client.finish(request).await.map(|_| sent)
            }
        });
        match told.await {
            Ok(sent) => self.acknowledged(sent),
            Err(fault) => self.machine.note(format!(
                "the end of its attempt is refused: {}",
                fault.message()
            )),
        }
    }
}
