//! Brings what an attempt made to the coordinator: reports and saved folders while it trains, then how it ended.

use std::path::PathBuf;
use std::sync::Arc;

use qlora_client::Client;
use qlora_client::retry::{Backoff, Verdict, judge};
use qlora_client::transfer::TransferError;
use qlora_proto::{FinishRequest, Outcome};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::attempt::{Fault, Stopping};
use super::current::Current;
use super::outbox::{Outbox, Sender};
use super::process::ExitStatus;
use super::progress::line;
use super::saved::Saved;
use super::upload::Uploader;

/// How the coordinator took the end of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It knows how the attempt ended.
    Told,
    /// The attempt was not current any more.
    Refused,
}

/// The way from an attempt to the coordinator.
#[derive(Clone)]
pub struct Delivery {
    pub client: Client,
    pub session: Current,
    pub token: u64,
    /// The attempt's own; it goes once everything is delivered.
    pub folder: PathBuf,
    pub outbox: Arc<Outbox>,
    pub stopping: watch::Receiver<Option<Stopping>>,
}

/// Uploads that go on while an attempt trains.
pub type Uploads = JoinHandle<Result<(), TransferError>>;

impl Delivery {
    /// Sends reports until the attempt is over.
    pub fn reports(&self) -> JoinHandle<()> {
        let sender = Sender { session: self.session.clone(), token: self.token };
        tokio::spawn(self.outbox.clone().deliver(self.client.clone(), sender))
    }

    /// Uploads what is sent to it.
    pub fn uploads(&self) -> (mpsc::UnboundedSender<Saved>, Uploads) {
        let (saved, waiting) = mpsc::unbounded_channel();
        (saved, tokio::spawn(Uploader(self.clone()).run(waiting)))
    }

    /// Delivers what an attempt left whose process has ended.
    pub async fn complete(self, ended: ExitStatus, saved: Vec<Saved>) -> Ending {
        let reports = self.reports();
        let (sender, uploads) = self.uploads();
        // The uploader takes them as long as its end is held here.
        saved.into_iter().for_each(|saved| drop(sender.send(saved)));
        drop(sender);
        let ended = after_uploads(uploads, ended)
            .await
            .map_err(Fault::from)
            .unwrap_or_else(|fault| ExitStatus { outcome: fault.outcome(), message: fault.to_string() });
        self.close(ended, reports).await
    }

    /// Tells how the attempt ended, and clears up.
    pub async fn close(&self, ended: ExitStatus, reports: JoinHandle<()>) -> Ending {
        let ending = self.finish(ended).await;
        reports.abort();
        let _ = tokio::fs::remove_dir_all(&self.folder).await;
        ending
    }

    /// Tells the coordinator how the attempt ended, trying until it knows.
    async fn finish(&self, ended: ExitStatus) -> Ending {
        if ended.outcome != Outcome::Succeeded && !ended.message.is_empty() {
            tracing::warn!(outcome = ?ended.outcome, "{}", ended.message);
            self.outbox.log(line("error", ended.message.clone()));
        }
        if !self.outbox.flush().await {
            return Ending::Refused;
        }
        let mut client = self.client.workers.clone();
        let mut backoff = Backoff::default();
        loop {
            let request = FinishRequest {
                session: self.session.get(),
                token: self.token,
                outcome: ended.outcome.into(),
                message: ended.message.clone(),
            };
            let Err(status) = client.finish(request).await else { return Ending::Told };
            match judge(&status) {
                Verdict::Over | Verdict::Refused => {
                    tracing::warn!("the end of the attempt is refused: {}", status.message());
                    return Ending::Refused;
                }
                Verdict::Register | Verdict::Again => backoff.wait().await,
            }
        }
    }
}

/// How an attempt ended, once everything is uploaded; what was saved is worth keeping even where it failed.
///
/// # Errors
/// Its adapter could not be delivered.
pub async fn after_uploads(uploads: Uploads, ended: ExitStatus) -> Result<ExitStatus, TransferError> {
    match uploads.await {
        Ok(Err(fault)) if ended.outcome == Outcome::Succeeded => Err(fault),
        _ => Ok(ended),
    }
}
