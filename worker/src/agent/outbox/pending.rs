//! What waits to be reported, and the batches in which it travels.

use std::collections::VecDeque;

use prost::Message;
use qlora_proto::{LogLevel, LogLine, MetricPoint, Progress, ReportRequest, Sample};

use crate::agent::progress::line;

/// Bytes of one batch; below what a gRPC server takes by default, 4 MiB.
const BATCH: usize = 1 << 20;
/// Bytes of a line or of a sample's text; what is longer is cut.
const LONGEST_TEXT: usize = 64 << 10;
/// Lines, points and samples that are kept, of each.
const KEPT: usize = 50_000;

/// What waits, and what has got its number.
#[derive(Debug, Default, Clone)]
pub(super) struct Pending {
    pub metrics: VecDeque<MetricPoint>,
    logs: VecDeque<LogLine>,
    samples: VecDeque<Sample>,
    pub progress: Option<Progress>,
    /// Lines that had to go.
    left_out: usize,
    /// The greatest number that a batch has got.
    pub number: u64,
    /// Batches that have got theirs; the first is on its way.
    pub numbered: VecDeque<ReportRequest>,
    pub refused: bool,
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
        self.left_out += push(&mut self.logs, line);
    }

    pub fn sample(&mut self, mut sample: Sample) {
        [&mut sample.prompt, &mut sample.wanted, &mut sample.answer]
            .into_iter()
            .for_each(cut);
        push(&mut self.samples, sample);
    }

    /// What is to be sent next, with its number: what may not have arrived, and then what waits.
    pub fn next(&mut self) -> Option<ReportRequest> {
        if self.numbered.is_empty() && !self.is_empty() {
            self.number_one();
        }
        self.numbered.front().cloned()
    }

    pub fn number_one(&mut self) {
        self.number += 1;
        let batch = ReportRequest {
            batch: self.number,
            ..self.batch()
        };
        self.numbered.push_back(batch);
    }

    /// Up to [`BATCH`] bytes of what waits, oldest first.
    fn batch(&mut self) -> ReportRequest {
        if self.left_out > 0 {
            let text = format!(
                "{} older lines were left out: too many waited for the coordinator",
                self.left_out
            );
            self.logs.push_front(line(LogLevel::Warn, text));
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
        ReportRequest {
            metrics,
            logs,
            progress,
            ..ReportRequest::default()
        }
    }
}

/// Adds to what is kept; how many of the oldest had to go for it.
pub(super) fn push<T>(kept: &mut VecDeque<T>, new: T) -> usize {
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
        (0..KEPT + 3).for_each(|i| pending.log(line(LogLevel::Info, i.to_string())));
        let first = pending.batch();
        assert_eq!(
            logs(&first)[..2],
            [
                "3 older lines were left out: too many waited for the coordinator",
                "3"
            ]
        );
    }
}
