//! What waits to be reported, and the batches in which it travels.

use std::collections::VecDeque;
use std::iter::Peekable;
use std::time::Instant;

use prost::Message;
use qlora_proto::{LogLevel, LogLine, MetricPoint, Progress, ReportRequest, Sample};

use crate::agent::progress::line;

/// Bytes of one batch; below what a gRPC server takes by default, 4 MiB.
const BATCH: usize = 1 << 20;
/// Bytes of a line or of a sample's text; what is longer is cut.
const LONGEST_TEXT: usize = 64 << 10;
/// Bytes of memory that all that waits may take.
const KEPT: usize = 64 << 20;
/// What a line, point or sample takes beside its own bytes, about.
const BESIDE: usize = 256;

/// What waits, and what has got its number.
#[derive(Debug, Default)]
pub(super) struct Pending {
    metrics: VecDeque<MetricPoint>,
    logs: VecDeque<LogLine>,
    samples: VecDeque<Sample>,
    pub progress: Option<Progress>,
    /// Memory that lines, points and samples take.
    bytes: usize,
    left_out: LeftOut,
    /// The greatest number that a batch has got.
    pub number: u64,
    /// Batches that have got theirs; the first is on its way.
    pub numbered: VecDeque<ReportRequest>,
    /// Since when the first of them is on its way.
    sent: Option<Instant>,
    pub refused: bool,
    /// Counts what came and what went.
    pub changes: u64,
}

/// What had to go.
#[derive(Debug, Default, Clone, Copy)]
struct LeftOut {
    lines: usize,
    points: usize,
    samples: usize,
}

impl LeftOut {
    /// For the log; none where nothing had to.
    fn told(self) -> Option<String> {
        let parts = [
            (self.lines, "older lines"),
            (self.points, "points of metrics"),
            (self.samples, "older answers"),
        ];
        let parts: Vec<String> = parts
            .iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, what)| format!("{n} {what}"))
            .collect();
        (!parts.is_empty()).then(|| {
            format!(
                "{} were left out: too many waited for the coordinator",
                parts.join(", ")
            )
        })
    }
}

impl Pending {
    /// Nothing yet, where batches up to `number` may have been sent.
    pub fn after(number: u64) -> Self {
        Self {
            number,
            ..Self::default()
        }
    }

    pub fn is_empty(&self) -> bool {
        self.metrics.is_empty()
            && self.logs.is_empty()
            && self.samples.is_empty()
            && self.progress.is_none()
    }

    pub fn log(&mut self, mut line: LogLine) {
        cut(&mut line.text);
        self.bytes += weight(&line);
        self.logs.push_back(line);
        self.changes += 1;
        self.bound();
    }

    pub fn metric(&mut self, point: MetricPoint) {
        self.bytes += weight(&point);
        self.metrics.push_back(point);
        self.changes += 1;
        self.bound();
    }

    pub fn sample(&mut self, mut sample: Sample) {
        [&mut sample.prompt, &mut sample.wanted, &mut sample.answer]
            .into_iter()
            .for_each(cut);
        self.bytes += weight(&sample);
        self.samples.push_back(sample);
        self.changes += 1;
        self.bound();
    }

    /// Makes room: the oldest lines go first, then points are thinned out, then the oldest samples
    /// go.
    fn bound(&mut self) {
        while self.bytes > KEPT {
            if let Some(line) = self.logs.pop_front() {
                self.bytes = self.bytes.saturating_sub(weight(&line));
                self.left_out.lines += 1;
            } else if self.metrics.len() > 1 {
                self.thin_out();
            } else if let Some(sample) = self.samples.pop_front() {
                self.bytes = self.bytes.saturating_sub(weight(&sample));
                self.left_out.samples += 1;
            } else {
                return;
            }
        }
    }

    /// Leaves every second point out, and never the newest.
    fn thin_out(&mut self) {
        let (all, mut position, mut gone) = (self.metrics.len(), 0_usize, 0);
        self.metrics.retain(|point| {
            position += 1;
            let stays = (all - position).is_multiple_of(2);
            if !stays {
                gone += weight(point);
            }
            stays
        });
        self.bytes = self.bytes.saturating_sub(gone);
        self.left_out.points += all - self.metrics.len();
    }

    /// What is to be sent next, with its number: what may not have arrived, and then what waits.
    pub fn next(&mut self) -> Option<ReportRequest> {
        if self.numbered.is_empty() && !self.is_empty() {
            self.number_one();
        }
        if !self.numbered.is_empty() {
            self.sent.get_or_insert_with(Instant::now);
        }
        self.numbered.front().cloned()
    }

    /// Gives all that waits its numbers; the last of them.
    pub fn number_all(&mut self) -> u64 {
        while !self.is_empty() {
            self.number_one();
        }
        self.number
    }

    /// Whether the coordinator has the batches up to `number`.
    pub fn has_arrived(&self, number: u64) -> bool {
        self.numbered
            .front()
            .is_none_or(|first| first.batch > number)
    }

    /// The first batch has arrived, or is given up.
    pub fn delivered(&mut self) {
        self.numbered.pop_front();
        self.sent = None;
        self.changes += 1;
    }

    /// The coordinator takes nothing more of this attempt, so nothing is on its way.
    pub fn refuse(&mut self) {
        self.refused = true;
        self.sent = None;
    }

    /// Since when the first batch is on its way.
    pub fn sent(&self) -> Option<Instant> {
        self.sent
    }

    fn number_one(&mut self) {
        self.number += 1;
        let batch = ReportRequest {
            batch: self.number,
            ..self.batch()
        };
        self.numbered.push_back(batch);
    }

    /// Up to [`BATCH`] bytes of what waits, oldest first.
    fn batch(&mut self) -> ReportRequest {
        if let Some(text) = std::mem::take(&mut self.left_out).told() {
            let line = line(LogLevel::Warn, text);
            self.bytes += weight(&line);
            self.logs.push_front(line);
        }
        let mut room = BATCH;
        let metrics = take(&mut self.metrics, &mut room);
        let logs = take(&mut self.logs, &mut room);
        let samples = take(&mut self.samples, &mut room);
        let taken = metrics.iter().map(weight).sum::<usize>()
            + logs.iter().map(weight).sum::<usize>()
            + samples.iter().map(weight).sum::<usize>();
        self.bytes = self.bytes.saturating_sub(taken);
        request(metrics, logs, samples, self.progress.take())
    }

    /// All that is not delivered, in the batches in which it is going to be sent, one after the
    /// other. No more than one of them is copied at a time.
    pub fn encoded(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut add = |batch: &ReportRequest| bytes.extend(batch.encode_length_delimited_to_vec());
        self.numbered.iter().for_each(&mut add);
        let told = self.left_out.told().map(|text| line(LogLevel::Warn, text));
        let mut metrics = self.metrics.iter().peekable();
        let mut logs = told.iter().chain(&self.logs).peekable();
        let mut samples = self.samples.iter().peekable();
        let (mut number, mut progress) = (self.number, self.progress.clone());
        while metrics.peek().is_some()
            || logs.peek().is_some()
            || samples.peek().is_some()
            || progress.is_some()
        {
            let mut room = BATCH;
            let metrics = fitting(&mut metrics, &mut room);
            let logs = fitting(&mut logs, &mut room);
            let samples = fitting(&mut samples, &mut room);
            number += 1;
            add(&ReportRequest {
                batch: number,
                ..request(metrics, logs, samples, progress.take())
            });
        }
        if self.numbered.is_empty() && number == self.number {
            // Who reads it goes on counting from here.
            add(&ReportRequest {
                batch: number,
                ..ReportRequest::default()
            });
        }
        bytes
    }
}

fn request(
    metrics: Vec<MetricPoint>,
    logs: Vec<LogLine>,
    samples: Vec<Sample>,
    mut progress: Option<Progress>,
) -> ReportRequest {
    if !samples.is_empty() {
        progress.get_or_insert_default().samples = samples;
    }
    ReportRequest {
        metrics,
        logs,
        progress,
        ..ReportRequest::default()
    }
}

/// Memory that `item` takes, about.
fn weight<T: Message>(item: &T) -> usize {
    item.encoded_len() + BESIDE
}

/// The first of what waits, for as long as there is `room`; one at least.
fn take<T: Message + Clone>(waiting: &mut VecDeque<T>, room: &mut usize) -> Vec<T> {
    let taken = fitting(&mut waiting.iter().peekable(), room);
    waiting.drain(..taken.len());
    taken
}

/// Copies of what [`take`] takes.
fn fitting<'a, T: Message + Clone + 'a>(
    waiting: &mut Peekable<impl Iterator<Item = &'a T>>,
    room: &mut usize,
) -> Vec<T> {
    let mut fitting = Vec::new();
    while let Some(next) = waiting.peek() {
        let bytes = next.encoded_len() + 8;
        if bytes > *room && *room < BATCH {
            break;
        }
        *room = room.saturating_sub(bytes);
        fitting.push(T::clone(next));
        waiting.next();
    }
    fitting
}

/// Cuts a text that is too long, and says so in it.
fn cut(text: &mut String) {
    if text.len() > LONGEST_TEXT {
        let bytes = text.len();
        text.truncate(text.floor_char_boundary(LONGEST_TEXT));
        text.push_str(&format!(" [... cut, {bytes} bytes in all]"));
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
        let texts: Vec<String> = (0..100)
            .map(|i| format!("{i} {}", "x".repeat(50_000)))
            .collect();
        texts
            .iter()
            .for_each(|text| pending.log(line(LogLevel::Info, text.clone())));
        pending.progress = Some(Progress {
            step: 7,
            ..Progress::default()
        });
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
    fn what_is_encoded_are_the_batches_that_are_sent() {
        let mut pending = Pending::after(3);
        for i in 0..60 {
            let text = format!("{i} {}", "x".repeat(50_000));
            pending.log(line(LogLevel::Info, text.clone()));
            pending.sample(Sample {
                answer: text,
                ..Sample::default()
            });
            pending.metric(MetricPoint {
                step: i,
                ..MetricPoint::default()
            });
        }
        pending.progress = Some(Progress::default());
        pending.next().expect("a batch that is on its way");
        let bytes = pending.encoded();
        let (mut rest, mut batches) = (bytes.as_slice(), 0);
        while !rest.is_empty() {
            let read = ReportRequest::decode_length_delimited(&mut rest).expect("a batch");
            assert_eq!(pending.next(), Some(read));
            pending.delivered();
            batches += 1;
        }
        assert!(pending.is_empty() && batches > 4, "{batches}");
    }

    #[test]
    fn a_text_beyond_the_bound_is_cut_at_a_letter_and_says_so() {
        let mut pending = Pending::default();
        pending.log(line(LogLevel::Info, "\u{e4}".repeat(LONGEST_TEXT)));
        let batch = pending.batch();
        assert!(
            batch.logs[0]
                .text
                .ends_with("[... cut, 131072 bytes in all]")
        );
        assert!(batch.logs[0].text.len() < LONGEST_TEXT + 64);
    }

    #[test]
    fn of_too_many_lines_the_oldest_go_and_the_log_says_so() {
        let mut pending = Pending::default();
        let text = |i: usize| format!("{i} {}", "x".repeat(60_000));
        (0..2 * KEPT / 60_000).for_each(|i| pending.log(line(LogLevel::Info, text(i))));
        assert!(pending.bytes <= KEPT && pending.bytes > KEPT - (1 << 20));
        let gone = pending.left_out.lines;
        let first = pending.batch();
        let told = format!("{gone} older lines were left out: too many waited for the coordinator");
        assert_eq!(logs(&first)[..2], [told, text(gone)]);
        while !pending.is_empty() {
            pending.batch();
        }
        assert_eq!(pending.bytes, 0);
    }

    #[test]
    fn points_outlive_lines_and_are_thinned_out_from_one_end_to_the_other() {
        let mut pending = Pending::default();
        pending.log(line(LogLevel::Info, "a line".into()));
        let points = KEPT / BESIDE;
        for step in 1..=points as u64 {
            pending.metric(MetricPoint {
                step,
                ..MetricPoint::default()
            });
        }
        assert!(pending.bytes <= KEPT && pending.logs.is_empty());
        assert_eq!(pending.left_out.lines, 1);
        let left = pending.metrics.len();
        assert!(left > points / 3 && left + pending.left_out.points == points);
        let first = pending.metrics.front().map(|point| point.step);
        let last = pending.metrics.back().map(|point| point.step);
        assert!(first <= Some(2) && last == Some(points as u64), "{first:?}");
    }
}
