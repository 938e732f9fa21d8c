//! What an attempt has to report, in numbered batches, kept until the coordinator has it.
//!
//! It is kept in memory and is bounded in bytes: an attempt never outlives its lease, so at most the
//! reports of one lease gather while the coordinator is away. While it is away a copy lies on disk,
//! for the next start of a worker that is killed.
//!
//! Four things are dropped. When more than 64 MiB wait, the oldest lines go; when no line is left,
//! every second point of metrics; when one point is left, the oldest samples. The next batch says
//! how many of each went. The end of a text of more than 64 KiB is cut when it is added. A batch
//! that the coordinator refuses for its content is logged and left out, and the next one is sent.
//! When the coordinator refuses the attempt itself, nothing more of it is sent.

mod pending;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message;
use qlora_proto::{LogLine, Progress, ReportRequest};
use tokio::sync::Notify;

use self::pending::Pending;
use super::current::Current;
use super::progress::Entry;
use qlora_client::Client;
use qlora_client::retry::{Verdict, judge, until_answered};
use qlora_client::waits::GATHER;

/// The longest that things gather, whatever the coordinator asks: people look at a run.
const LONGEST_GATHER: Duration = Duration::from_secs(60);
/// A coordinator that takes nothing for so long is away.
const AWAY: Duration = Duration::from_secs(5);

/// Who reports.
#[derive(Debug, Clone)]
pub struct Sender {
    pub session: Current,
    pub token: u64,
}

/// Collects from the attempt and sends from a task of its own.
#[derive(Debug, Default)]
pub struct Outbox {
    pending: Mutex<Pending>,
    news: Notify,
    empty: Notify,
    /// A batch has arrived, or none will any more.
    arrived: Notify,
    /// Somebody waits for what there is.
    wanted: Notify,
}

impl Outbox {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what an event brought, and the progress as it is now.
    pub fn add(&self, entry: Entry, progress: &Progress) {
        let mut pending = self.pending();
        if let Some(point) = entry.metric {
            pending.metric(point);
        }
        entry.log.into_iter().for_each(|line| pending.log(line));
        entry
            .sample
            .into_iter()
            .for_each(|sample| pending.sample(sample));
        pending.progress = Some(progress.clone());
        pending.changes += 1;
        drop(pending);
        self.news.notify_one();
    }

    /// Adds a line.
    pub fn log(&self, line: LogLine) {
        self.pending().log(line);
        self.news.notify_one();
    }

    /// Sends batches until the attempt is over; never ends otherwise.
    pub async fn deliver(self: Arc<Self>, client: Client, sender: Sender) {
        let mut gather = GATHER;
        loop {
            let Some(batch) = self.pending().next() else {
                self.empty.notify_waiters();
                self.news.notified().await;
                self.gather(gather).await;
                continue;
            };
            let batch = ReportRequest {
                token: sender.token,
                ..batch
            };
            let Some(asked) = send(&client, &sender.session, batch).await else {
                self.pending().refuse();
                self.empty.notify_waiters();
                self.arrived.notify_waiters();
                return;
            };
            gather = asked.clamp(GATHER, LONGEST_GATHER);
            self.pending().delivered();
            self.arrived.notify_waiters();
        }
    }

    /// Lets more come, until somebody waits for what there is.
    async fn gather(&self, time: Duration) {
        // To be woken without need costs one small batch.
        let _ = tokio::time::timeout(time, self.wanted.notified()).await;
    }

    /// Waits until the coordinator has all that was added before this call, whatever comes
    /// meanwhile; false where it refuses this attempt.
    pub async fn told(&self) -> bool {
        let last = self.pending().number_all();
        self.wanted.notify_one();
        loop {
            let arrived = self.arrived.notified();
            {
                let pending = self.pending();
                if pending.refused {
                    return false;
                }
                if pending.has_arrived(last) {
                    return true;
                }
            }
            arrived.await;
        }
    }

    /// Whether the coordinator has not taken a batch for a while.
    pub fn is_stuck(&self) -> bool {
        self.pending()
            .sent()
            .is_some_and(|sent| sent.elapsed() >= AWAY)
    }

    /// Counts what came and what was delivered: what is not delivered is the same while this is.
    pub fn changes(&self) -> u64 {
        self.pending().changes
    }

    /// Writes a copy of what is not delivered to `path`, in the batches in which it is going to be
    /// sent: what arrives after all is known by its number.
    pub fn keep(&self, path: &Path) -> io::Result<()> {
        let bytes = self.pending().encoded();
        std::fs::write(path, bytes)
    }

    /// For an attempt of which nobody knows which batches it has sent: its numbers are above all
    /// that it can have used.
    pub fn after_unknown() -> Self {
        Self {
            pending: Mutex::new(Pending::after(1 << 40)),
            ..Self::default()
        }
    }

    /// What [`Self::keep`] wrote.
    pub fn restored(path: &Path) -> io::Result<Self> {
        let bytes = std::fs::read(path)?;
        let (mut rest, mut pending) = (bytes.as_slice(), Pending::default());
        while !rest.is_empty() {
            pending
                .numbered
                .push_back(ReportRequest::decode_length_delimited(&mut rest)?);
        }
        pending.number = pending.numbered.back().map_or(0, |last| last.batch);
        Ok(Self {
            pending: Mutex::new(pending),
            ..Self::default()
        })
    }

    /// Waits until everything is delivered; false where the coordinator refuses this attempt.
    pub async fn flush(&self) -> bool {
        self.wanted.notify_one();
        loop {
            let empty = self.empty.notified();
            {
                let pending = self.pending();
                if pending.refused {
                    return false;
                }
                if pending.is_empty() && pending.numbered.is_empty() {
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

/// Sends one batch until it is taken, and returns for how long the next one gathers; none where the
/// attempt is over.
async fn send(client: &Client, session: &Current, mut batch: ReportRequest) -> Option<Duration> {
    let workers = client.workers.clone();
    let taken = until_answered(|| {
        let mut client = workers.clone();
        batch.session = session.get();
        let request = batch.clone();
        async move { client.report(request).await }
    });
    let status = match taken.await {
        Ok(taken) => {
            let asked = taken.into_inner().gather_ms;
            return Some(Duration::from_millis(asked.into()));
        }
        Err(status) => status,
    };
    if judge(&status) == Verdict::Over {
        tracing::warn!("reports are refused: {}", status.message());
        return None;
    }
    // The next one may be taken; a run does not end for a line that cannot be told.
    tracing::error!("a report is refused and left out: {}", status.message());
    Some(GATHER)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use qlora_proto::{LogLevel, Sample};
    use tokio::time::Instant;

    use super::*;
    use crate::agent::progress::line;

    fn logs(batch: &ReportRequest) -> Vec<&str> {
        batch.logs.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn a_coordinator_is_away_that_does_not_take_what_was_sent() {
        let outbox = Outbox::default();
        outbox.log(line(LogLevel::Info, "x".into()));
        assert!(!outbox.is_stuck() && outbox.pending().sent().is_none());
        outbox.pending().next().expect("a batch");
        assert!(!outbox.is_stuck() && outbox.pending().sent().is_some());
        outbox.pending().delivered();
        assert!(outbox.pending().sent().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_gathers_is_sent_once_somebody_waits_for_it() {
        let outbox = Outbox::default();
        outbox.log(line(LogLevel::Info, "x".into()));
        let (begin, long) = (Instant::now(), Duration::from_secs(10));
        outbox.gather(long).await;
        assert_eq!(begin.elapsed(), long, "nobody waits");
        for asked in [true, false] {
            let begin = Instant::now();
            let waits = async {
                match asked {
                    true => outbox.flush().await,
                    false => outbox.told().await,
                }
            };
            let sends = async {
                outbox.gather(long).await;
                outbox.pending().next().expect("a batch");
                outbox.pending().delivered();
                outbox.empty.notify_waiters();
                outbox.arrived.notify_waiters();
            };
            // Whoever waits is asked first.
            let (sent, ()) = tokio::join!(waits, sends);
            assert!(sent && begin.elapsed() < GATHER);
            outbox.log(line(LogLevel::Info, "y".into()));
        }
    }

    #[test]
    fn a_coordinator_that_refuses_what_was_sent_is_not_away() {
        let outbox = Outbox::default();
        outbox.log(line(LogLevel::Info, "x".into()));
        outbox.pending().next().expect("a batch");
        outbox.pending().refuse();
        assert!(outbox.is_refused() && outbox.pending().sent().is_none());
    }

    #[test]
    fn who_waits_for_what_was_added_does_not_wait_for_what_comes_later() {
        let outbox = Outbox::default();
        let mut context = Context::from_waker(Waker::noop());
        assert!(pin!(outbox.told()).poll(&mut context).is_ready());
        outbox.log(line(LogLevel::Info, "before".into()));
        let mut told = pin!(outbox.told());
        assert!(told.as_mut().poll(&mut context).is_pending());
        outbox.log(line(LogLevel::Info, "after".into()));
        let first = outbox.pending().next().expect("a batch");
        assert_eq!(logs(&first), ["before"]);
        outbox.pending().delivered();
        outbox.arrived.notify_waiters();
        assert_eq!(told.as_mut().poll(&mut context), Poll::Ready(true));
        // What is refused is not waited for.
        let mut told = pin!(outbox.told());
        assert!(told.as_mut().poll(&mut context).is_pending());
        outbox.pending().refuse();
        outbox.arrived.notify_waiters();
        assert_eq!(told.as_mut().poll(&mut context), Poll::Ready(false));
    }

    #[test]
    fn what_is_kept_is_sent_again_under_its_numbers_and_what_comes_later_under_new_ones() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("reports");
        let outbox = Outbox::default();
        outbox.log(line(LogLevel::Info, "on its way".into()));
        let first = outbox.pending().next().expect("a batch");
        let sample = Sample {
            prompt: "p".into(),
            ..Sample::default()
        };
        let entry = Entry {
            log: Some(line(LogLevel::Info, "waits".into())),
            sample: Some(sample),
            metric: None,
        };
        outbox.add(
            entry,
            &Progress {
                step: 7,
                ..Progress::default()
            },
        );
        outbox.keep(&path).expect("a file");

        let restored = Outbox::restored(&path).expect("reports");
        restored.log(line(LogLevel::Info, "later".into()));
        let mut pending = restored.pending();
        let mut sent = Vec::new();
        while let Some(batch) = pending.next() {
            sent.push(batch);
            pending.numbered.pop_front();
        }
        assert_eq!(
            sent.iter().map(|b| (b.batch, logs(b))).collect::<Vec<_>>(),
            [
                (1, vec!["on its way"]),
                (2, vec!["waits"]),
                (3, vec!["later"])
            ]
        );
        assert_eq!(sent[0], first);
        assert_eq!(
            sent[1].progress.as_ref().map(|p| (p.step, p.samples.len())),
            Some((7, 1))
        );

        // The process that kept them goes on, and sends them in the same batches.
        outbox.pending().numbered.pop_front();
        assert_eq!(outbox.pending().next().as_ref(), Some(&sent[1]));
        outbox.pending().numbered.pop_front();
        outbox.keep(&path).expect("a file");
        assert_eq!(
            Outbox::restored(&path).expect("reports").pending().number,
            2
        );
        std::fs::write(&path, [9, 9]).expect("a file");
        assert!(
            Outbox::restored(&path).is_err()
                && Outbox::restored(&folder.path().join("none")).is_err()
        );
    }
}
