//! What an attempt has to report, in numbered batches, kept until the coordinator has it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qlora_proto::{LogLine, MetricPoint, Progress, ReportRequest};
use tokio::sync::Notify;
use tonic::Code;

use super::progress::Entry;
use qlora_client::Client;

/// Things that gather within this time travel together.
const GATHER: Duration = Duration::from_millis(200);
const RETRY: Duration = Duration::from_millis(500);
/// Lines and points of one batch.
const BATCH: usize = 2000;

/// Who reports.
#[derive(Debug, Clone, Copy)]
pub struct Sender {
    pub session: u64,
    pub token: u64,
    /// Among the workers of the attempt.
    pub rank: u32,
}

/// Collects from the attempt and sends from a task of its own.
#[derive(Debug, Default)]
pub struct Outbox {
    pending: Mutex<Pending>,
    news: Notify,
    empty: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    metrics: Vec<MetricPoint>,
    logs: Vec<LogLine>,
    progress: Option<Progress>,
    sending: bool,
    refused: bool,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.metrics.is_empty() && self.logs.is_empty() && self.progress.is_none()
    }
}

impl Outbox {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what an event brought, and the progress as it is now.
    pub fn add(&self, entry: Entry, progress: &Progress) {
        let mut pending = self.pending();
        pending.metrics.extend(entry.metric);
        pending.logs.extend(entry.log);
        pending.progress = Some(progress.clone());
        drop(pending);
        self.news.notify_one();
    }

    /// Adds a line.
    pub fn log(&self, line: LogLine) {
        self.pending().logs.push(line);
        self.news.notify_one();
    }

    /// Sends batches until the attempt is refused; never ends otherwise.
    pub async fn deliver(self: Arc<Self>, mut client: Client, sender: Sender) {
        let mut number = 0;
        loop {
            let Some(mut batch) = self.next_batch() else {
                self.empty.notify_waiters();
                self.news.notified().await;
                tokio::time::sleep(GATHER).await;
                continue;
            };
            number += 1;
            (batch.session, batch.token, batch.rank, batch.batch) = (sender.session, sender.token, sender.rank, number);
            while let Err(status) = client.workers.report(batch.clone()).await {
                if matches!(status.code(), Code::FailedPrecondition | Code::NotFound) {
                    tracing::warn!("reports are refused: {}", status.message());
                    self.pending().refused = true;
                    self.empty.notify_waiters();
                    return;
                }
                tokio::time::sleep(RETRY).await;
            }
            self.pending().sending = false;
        }
    }

    fn next_batch(&self) -> Option<ReportRequest> {
        let mut pending = self.pending();
        if pending.is_empty() {
            return None;
        }
        pending.sending = true;
        let metrics = drain(&mut pending.metrics);
        let logs = drain(&mut pending.logs);
        let progress = pending.progress.take();
        Some(ReportRequest { metrics, logs, progress, ..ReportRequest::default() })
    }

    /// Waits until everything is delivered; false where the coordinator refuses this attempt.
    pub async fn flush(&self) -> bool {
        loop {
            let empty = self.empty.notified();
            {
                let pending = self.pending();
                if pending.refused {
                    return false;
                }
                if pending.is_empty() && !pending.sending {
                    return true;
                }
            }
            empty.await;
        }
    }

    /// Whether the coordinator refuses this attempt.
    pub fn is_refused(&self) -> bool {
        self.pending().refused
    }
}

fn drain<T>(all: &mut Vec<T>) -> Vec<T> {
    let n = all.len().min(BATCH);
    all.drain(..n).collect()
}
