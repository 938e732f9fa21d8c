//! Brings what an attempt made to the coordinator: reports and saved files, then how it ended.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qlora_client::Client;
use qlora_client::retry::{Verdict, judge, until_answered};
use qlora_engine::ArtifactKind;
use qlora_proto::{CommitArtifactRequest, FinishRequest, JobArtifact, Outcome, ReportRequest};
use tokio::sync::mpsc;
use tonic::Status;

use super::machine::{Machine, Saved};
use super::outbox::{Current, Outbox};
use crate::clocks::now;
use crate::sights::Sight;
use crate::upload::{digest, upload};

/// Lines of a file, so that its upload takes several messages.
const LINES: usize = 90;

/// The way from an attempt to the coordinator.
pub struct Delivery {
    pub machine: Arc<Machine>,
    pub client: Client,
    pub session: Current,
    pub job: u64,
    pub token: u64,
    pub outbox: Arc<Outbox>,
    /// The last that was committed.
    pub last: Mutex<Option<JobArtifact>>,
}

impl Delivery {
    /// The answer to a call of the attempt, which may arrive twice.
    pub async fn answered<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let answer = until_answered(&mut call).await;
        if self.machine.repeats.swap(false, Relaxed) {
            self.machine.witness.saw(Sight::CallRepeated);
            // Nobody waits for what the second is answered.
            drop(until_answered(call).await);
        }
        answer
    }

    /// A request that was sent at `sent` was taken.
    pub fn acknowledged(&self, sent: Duration) {
        self.machine
            .witness
            .acknowledges(self.job, self.token, sent);
    }

    /// Sends reports until the coordinator refuses the attempt; never ends otherwise.
    pub async fn report_all(&self) {
        loop {
            let batch = self.outbox.batch().await;
            let is_over = !self.report(batch).await;
            self.outbox.settle(is_over);
            if is_over {
                return std::future::pending().await;
            }
        }
    }

    /// Sends one batch until it is taken; false where the attempt is over.
    async fn report(&self, mut batch: ReportRequest) -> bool {
        let taken = self.answered(|| {
            let mut client = self.client.workers.clone();
            batch.session = self.session.load(Relaxed);
            batch.token = self.token;
            let request = batch.clone();
            async move {
                let sent = now();
                client.report(request).await.map(|_| sent)
            }
        });
        match taken.await {
            Ok(sent) => {
                self.acknowledged(sent);
                true
            }
            Err(status) => judge(&status) != Verdict::Over,
        }
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
        let line = format!("{kind} of step {step} of job {}\n", self.job);
        let bytes = line.repeat(LINES).into_bytes();
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
        let sent = until_answered(|| self.commit(&artifact)).await;
        let witness = &self.machine.witness;
        let sent = sent.inspect_err(|_| witness.saw(Sight::FileRefused))?;
        self.acknowledged(sent);
        witness.committed(self.job, self.token, (kind, step));
        let before = self.last().replace(artifact);
        self.commit_again(before).await;
        Ok(())
    }

    fn last(&self) -> MutexGuard<'_, Option<JobArtifact>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the commit that was taken was sent.
    async fn commit(&self, artifact: &JobArtifact) -> Result<Duration, Status> {
        let request = CommitArtifactRequest {
            session: self.session.load(Relaxed),
            token: self.token,
            artifact: Some(artifact.clone()),
        };
        let sent = now();
        let mut client = self.client.workers.clone();
        client.commit_artifact(request).await.map(|_| sent)
    }

    /// The commit of `before` arrives once more, after the one that followed it.
    async fn commit_again(&self, before: Option<JobArtifact>) {
        if let Some(before) = before
            && self.machine.commits_again.swap(false, Relaxed)
        {
            self.machine.witness.saw(Sight::CommitRepeated);
            // Nobody waits for what it is answered.
            drop(until_answered(|| self.commit(&before)).await);
        }
    }

    /// Tells the coordinator how the attempt ended, trying until it knows.
    pub async fn finish(&self, outcome: Outcome, message: &str) {
        if !self.outbox.told().await {
            return self.machine.note("its attempt is refused");
        }
        let told = self.answered(|| {
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
            Err(fault) => {
                self.machine.witness.saw(Sight::EndRefused);
                self.machine.note(format!(
                    "the end of its attempt is refused: {}",
                    fault.message()
                ));
            }
        }
    }
}
