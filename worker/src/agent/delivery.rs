//! Delivers what an attempt made to the coordinator: reports and saved folders while it trains,
//! then how it ended.

use std::path::PathBuf;
use std::sync::Arc;

use qlora_client::retry::until_answered;
use qlora_client::{Client, TransferError};
use qlora_proto::{FinishRequest, LogLevel, Outcome};
use tokio::sync::mpsc;

use super::current::Current;
use super::exit_status::ExitStatus;
use super::fault::Fault;
use super::outbox::{Outbox, Sender};
use super::owned::Owned;
use super::progress::line;
use super::saved::Saved;
use super::stopping::{Stops, Urgency, told_to};
use super::upload::Uploader;

/// How the coordinator took the end of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It knows how the attempt ended.
    Told,
    /// The attempt was not current any more.
    Refused,
    /// It was left as it is, for another coordinator than the one that answers.
    Kept,
}

/// The way from an attempt to the coordinator.
pub struct Delivery {
    pub client: Client,
    pub session: Current,
    pub token: u64,
    /// The attempt's own; it goes once everything is delivered.
    pub folder: PathBuf,
    pub outbox: Arc<Outbox>,
    pub stopping: Stops,
}

/// Sends reports while an attempt lives.
pub type Reports = Owned<()>;
/// Uploads that go on while an attempt trains; they end with the newest step that the coordinator
/// has by them.
pub type Uploads = Owned<Result<Option<u64>, TransferError>>;

impl Delivery {
    /// Sends reports until the attempt is over.
    pub fn reports(&self) -> Reports {
        let sender = Sender {
            session: self.session.clone(),
            token: self.token,
        };
        Owned::spawn(self.outbox.clone().deliver(self.client.clone(), sender))
    }

    /// Uploads what is sent to it.
    pub fn uploads(&self) -> (mpsc::UnboundedSender<Saved>, Uploads) {
        let (saved, waiting) = mpsc::unbounded_channel();
        let uploader = Uploader {
            client: self.client.clone(),
            session: self.session.clone(),
            token: self.token,
            outbox: self.outbox.clone(),
            stopping: self.stopping.clone(),
        };
        (saved, Owned::spawn(uploader.run(waiting)))
    }

    /// Delivers what an attempt left whose process has ended.
    pub async fn complete(self, ended: ExitStatus, saved: Vec<Saved>) -> Ending {
        let reports = self.reports();
        let (sender, uploads) = self.uploads();
        // The uploader takes them as long as its end is held here.
        saved.into_iter().for_each(|saved| drop(sender.send(saved)));
        drop(sender);
        self.close(ended, Some(uploads), reports).await
    }

    /// Waits for the uploads, tells how the attempt ended, and clears up. An attempt that is to be
    /// left stays as it is.
    pub async fn close(
        self,
        ended: ExitStatus,
        uploads: Option<Uploads>,
        reports: Reports,
    ) -> Ending {
        let mut stopping = self.stopping.clone();
        tokio::select! {
            biased;
            () = told_to(&mut stopping, Urgency::Leave) => Ending::Kept,
            ending = self.deliver(ended, uploads) => {
                drop(reports);
                let _ = tokio::fs::remove_dir_all(&self.folder).await;
                ending
            }
        }
    }

    async fn deliver(&self, ended: ExitStatus, uploads: Option<Uploads>) -> Ending {
        let (ended, saved) = match uploads {
            Some(uploads) => after_uploads(uploads, ended).await,
            None => (ended, None),
        };
        self.finish(ended, saved).await
    }

    /// Tells the coordinator how the attempt ended, trying until it knows.
    async fn finish(&self, ended: ExitStatus, saved: Option<u64>) -> Ending {
        let message = ended.told(saved);
        if ended.outcome != Outcome::Succeeded && !message.is_empty() {
            let level = level(ended.outcome);
            match level {
                LogLevel::Info => tracing::info!(outcome = ?ended.outcome, "{message}"),
                _ => tracing::warn!(outcome = ?ended.outcome, "{message}"),
            }
            self.outbox.log(line(level, message.clone()));
        }
        if !self.outbox.flush().await {
            return Ending::Refused;
        }
        let told = until_answered(|| {
            let mut client = self.client.workers.clone();
            let request = FinishRequest {
                session: self.session.get(),
                token: self.token,
                outcome: ended.outcome.into(),
                message: message.clone(),
                code: ended.code.clone(),
            };
            async move { client.finish(request).await }
        });
        match told.await {
            Ok(_) => Ending::Told,
            Err(status) => {
                tracing::warn!("the end of the attempt is refused: {}", status.message());
                Ending::Refused
            }
        }
    }
}

/// The level at which a job's log tells of an end that is no success.
fn level(outcome: Outcome) -> LogLevel {
    match outcome {
        Outcome::Stopped => LogLevel::Info,
        Outcome::Lost | Outcome::PeerLost | Outcome::NoRoom => LogLevel::Warn,
        _ => LogLevel::Error,
    }
}

/// How an attempt ended, once everything is uploaded, and the newest step that is. What was saved
/// is worth keeping even where the attempt failed; a success whose adapter could not be delivered
/// is none.
async fn after_uploads(uploads: Uploads, ended: ExitStatus) -> (ExitStatus, Option<u64>) {
    match uploads.await {
        Ok(Err(fault)) if ended.outcome == Outcome::Succeeded => {
            (Fault::from(fault).status(), None)
        }
        Ok(Ok(saved)) => (ended, saved),
        _ => (ended, None),
    }
}
