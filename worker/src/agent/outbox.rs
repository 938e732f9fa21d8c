//! What an attempt has to report, in numbered batches, kept until the coordinator has it.
//!
//! It lies in memory and within a bound: an attempt outlives its lease by nothing, so what can gather while the
//! coordinator is away is what a lease's time brings. Of too many lines the oldest go, and the log says so.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message;
use qlora_proto::{LogLine, MetricPoint, Progress, ReportRequest, Sample};
use tokio::sync::Notify;

use super::current::Current;
use super::progress::{Entry, line};
use qlora_client::Client;
use qlora_client::retry::{Backoff, Verdict, judge};

/// Things that gather within this time travel together.
const GATHER: Duration = Duration::from_millis(200);
/// Bytes of one batch; below what a gRPC server takes by default, 4 MiB.
const BATCH: usize = 1 << 20;
/// Bytes of a line or of a sample's text; what is longer is cut.
const LONGEST_TEXT: usize = 64 << 10;
/// Lines, points and samples that are kept, of each.
const KEPT: usize = 50_000;

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
}

#[derive(Debug, Default)]
struct Pending {
    metrics: VecDeque<MetricPoint>,
    logs: VecDeque<LogLine>,
    samples: VecDeque<Sample>,
    progress: Option<Progress>,
    /// Lines that had to go.
    left_out: usize,
    sending: bool,
    refused: bool,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.metrics.is_empty() && self.logs.is_empty() && self.samples.is_empty() && self.progress.is_none()
    }

    fn log(&mut self, mut line: LogLine) {
        cut(&mut line.text);
        self.left_out += push(&mut self.logs, line);
    }

    fn sample(&mut self, mut sample: Sample) {
        [&mut sample.prompt, &mut sample.wanted, &mut sample.answer].into_iter().for_each(cut);
        push(&mut self.samples, sample);
    }

    /// Up to [`BATCH`] bytes of what waits, oldest first.
    fn batch(&mut self) -> ReportRequest {
        if self.left_out > 0 {
            let text = format!("{} older lines were left out: too many waited for the coordinator", self.left_out);
            self.logs.push_front(line("warn", text));
            self.left_out = 0;
        }
        let mut room = BATCH;
        let metrics = take(&mut self.metrics, &mut room);
        let logs = take(&mut self.logs, &mut room);
        let samples = take(&mut self.samples, &mut room);
        let mut progress = self.progress.take();
        if !samples.is_empty() {
            progress.get_or_insert_default().samples = samples;
        }
        ReportRequest { metrics, logs, progress, ..ReportRequest::default() }
    }
}

/// Adds to what is kept; how many of the oldest had to go for it.
fn push<T>(kept: &mut VecDeque<T>, new: T) -> usize {
    kept.push_back(new);
    let above = kept.len().saturating_sub(KEPT);
    kept.drain(..above);
    above
}

/// The first of what waits, for as long as there is `room`; one at least.
fn take<T: Message>(waiting: &mut VecDeque<T>, room: &mut usize) -> Vec<T> {
    let mut taken = Vec::new();
    while let Some(next) = waiting.front() {
        let bytes = next.encoded_len() + 8;
        if bytes > *room && *room < BATCH {
            break;
        }
        *room = room.saturating_sub(bytes);
        taken.extend(waiting.pop_front());
    }
    taken
}

/// Cuts a text that is too long, and says so in it.
fn cut(text: &mut String) {
    if text.len() > LONGEST_TEXT {
        let bytes = text.len();
        text.truncate(text.floor_char_boundary(LONGEST_TEXT));
        text.push_str(&format!(" [... cut, {bytes} bytes in all]"));
    }
}

impl Outbox {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what an event brought, and the progress as it is now.
    pub fn add(&self, entry: Entry, progress: &Progress) {
        let mut pending = self.pending();
        if let Some(point) = entry.metric {
            push(&mut pending.metrics, point);
        }
        entry.log.into_iter().for_each(|line| pending.log(line));
        entry.sample.into_iter().for_each(|sample| pending.sample(sample));
        pending.progress = Some(progress.clone());
        drop(pending);
        self.news.notify_one();
    }

    /// Adds a line.
    pub fn log(&self, line: LogLine) {
        self.pending().log(line);
        self.news.notify_one();
    }

    /// Sends batches until the attempt is over; never ends otherwise.
    pub async fn deliver(self: Arc<Self>, mut client: Client, sender: Sender) {
        let mut number = 0;
        loop {
            let Some(batch) = self.next_batch() else {
                self.empty.notify_waiters();
                self.news.notified().await;
                tokio::time::sleep(GATHER).await;
                continue;
            };
            number += 1;
            let batch = ReportRequest { token: sender.token, batch: number, ..batch };
            if !send(&mut client, &sender.session, batch).await {
                self.pending().refused = true;
                self.empty.notify_waiters();
                return;
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
        Some(pending.batch())
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

/// Sends one batch until it is taken; false where the attempt is over.
async fn send(client: &mut Client, session: &Current, mut batch: ReportRequest) -> bool {
    let mut backoff = Backoff::default();
    loop {
        batch.session = session.get();
        let Err(status) = client.workers.report(batch.clone()).await else { return true };
        match judge(&status) {
            Verdict::Over => {
                tracing::warn!("reports are refused: {}", status.message());
                return false;
            }
            Verdict::Refused => {
                // The next one may be taken; a run does not end for a line that cannot be told.
                tracing::error!("a report is refused and left out: {}", status.message());
                return true;
            }
            Verdict::Register | Verdict::Again => backoff.wait().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs(batch: &ReportRequest) -> Vec<&str> {
        batch.logs.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn a_report_that_is_too_large_is_split_and_nothing_of_it_is_lost() {
        let mut pending = Pending::default();
        let texts: Vec<String> = (0..100).map(|i| format!("{i} {}", "x".repeat(50_000))).collect();
        texts.iter().for_each(|text| pending.log(line("info", text.clone())));
        pending.progress = Some(Progress { step: 7, ..Progress::default() });
        let mut told = Vec::new();
        let mut batches = 0;
        while !pending.is_empty() {
            let batch = pending.batch();
            assert!(batch.encoded_len() < 2 * BATCH, "{}", batch.encoded_len());
            told.extend(logs(&batch).into_iter().map(str::to_owned));
            batches += 1;
        }
        assert_eq!(told, texts);
        assert!(batches > 4, "{batches}");
    }

    #[test]
    fn a_text_beyond_the_bound_is_cut_at_a_letter_and_says_so() {
        let mut pending = Pending::default();
        pending.log(line("info", "\u{e4}".repeat(LONGEST_TEXT)));
        let batch = pending.batch();
        assert!(batch.logs[0].text.ends_with("[... cut, 131072 bytes in all]"));
        assert!(batch.logs[0].text.len() < LONGEST_TEXT + 64);
    }

    #[test]
    fn of_too_many_lines_the_oldest_go_and_the_log_says_so() {
        let mut pending = Pending::default();
        (0..KEPT + 3).for_each(|i| pending.log(line("info", i.to_string())));
        let first = pending.batch();
        assert_eq!(logs(&first)[..2], ["3 older lines were left out: too many waited for the coordinator", "3"]);
    }
}
