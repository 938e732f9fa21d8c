//! What an attempt reports, in numbered batches, kept until the coordinator has it.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use qlora_client::waits::GATHER;
use qlora_proto::{MetricPoint, Progress, ReportRequest};
use tokio::sync::Notify;

/// The worker's session of now.
pub type Current = Arc<AtomicU64>;

#[derive(Debug, Default)]
pub struct Outbox {
    pending: Mutex<Pending>,
    news: Notify,
    arrived: Notify,
}

#[derive(Debug, Clone, Default)]
struct Pending {
    points: Vec<MetricPoint>,
    /// On its way.
    numbered: Option<ReportRequest>,
    number: u64,
    /// Points that were added, that have got their number, and that arrived.
    added: u64,
    sent: u64,
    delivered: u64,
    refused: bool,
}

impl Outbox {
    /// As it lies on a disk now.
    pub fn copy(&self) -> Self {
        Self {
            pending: Mutex::new(self.pending().clone()),
            ..Self::default()
        }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The child has done `step`.
    pub fn add(&self, step: u64) {
        let mut pending = self.pending();
        pending.points.push(MetricPoint {
            step,
            ..MetricPoint::default()
        });
        pending.added += 1;
        drop(pending);
        self.news.notify_one();
    }

    fn next(&self) -> Option<ReportRequest> {
        let mut pending = self.pending();
        if pending.numbered.is_none() && !pending.points.is_empty() {
            pending.number += 1;
            let metrics = std::mem::take(&mut pending.points);
            let step = metrics.last().map_or(0, |point| point.step);
            pending.sent = pending.added;
            pending.numbered = Some(ReportRequest {
                batch: pending.number,
                metrics,
                progress: Some(Progress {
                    step,
                    ..Progress::default()
                }),
                ..ReportRequest::default()
            });
        }
        pending.numbered.clone()
    }

    /// The next batch, once there is one.
    pub async fn batch(&self) -> ReportRequest {
        loop {
            if let Some(batch) = self.next() {
                return batch;
            }
            self.news.notified().await;
            tokio::time::sleep(GATHER).await;
        }
    }

    /// The batch that was on its way has arrived, or none will any more.
    pub fn settle(&self, is_over: bool) {
        let mut pending = self.pending();
        pending.numbered = None;
        pending.delivered = pending.sent;
        pending.refused |= is_over;
        drop(pending);
        self.arrived.notify_waiters();
    }

    /// Waits until the coordinator has all that was added before this call; false where it refuses
    /// this attempt.
    pub async fn told(&self) -> bool {
        let last = self.pending().added;
        loop {
            let arrived = self.arrived.notified();
            {
                let pending = self.pending();
                if pending.refused {
                    return false;
                }
                if pending.delivered >= last {
                    return true;
                }
            }
            arrived.await;
        }
    }

    pub fn is_refused(&self) -> bool {
        self.pending().refused
    }
}
