//! What the trainer's events say about a job's progress, metrics and log.

use std::collections::HashMap;
use std::time::Instant;

use qlora_proto::words::count;
use qlora_proto::{LogLevel, LogLine, Metric, MetricPoint, Progress, Sample};
use qlora_trainer::report::{Event, Phase, StepReport};
use qlora_trainer::scores::Scores;

/// Share of the newest step in the running mean of seconds a step.
const NEWEST: f64 = 0.1;

/// Folds events into the state of a job.
#[derive(Debug, Default)]
pub struct Tracker {
    pub progress: Progress,
    seconds_per_step: Option<f64>,
    last_step: Option<Instant>,
    waits_for_others: bool,
    stepped: bool,
}

/// What one event adds to the record.
#[derive(Debug, Default)]
pub struct Entry {
    pub metric: Option<MetricPoint>,
    pub log: Option<LogLine>,
    pub sample: Option<Sample>,
}

impl Tracker {
    /// Takes one event.
    pub fn take(&mut self, event: &Event) -> Entry {
        match event {
            Event::Phase { phase, done, of } => {
                self.waits_for_others = *phase == Phase::Rendezvous;
                self.progress.phase = word(*phase).into();
                (self.progress.phase_done, self.progress.phase_of) = (*done, *of);
                Entry::default()
            }
            Event::Started {
                step,
                steps,
                trainable,
                rows,
                rows_left_out,
                weight_bytes,
            } => {
                (self.progress.step, self.progress.steps) = (*step, *steps);
                let left_out = if *rows_left_out > 0 {
                    format!(", {rows_left_out} left out")
                } else {
                    String::new()
                };
                let from = if *step > 0 {
                    format!(", going on after step {step}")
                } else {
                    String::new()
                };
                let megabytes = *weight_bytes as f64 / 1e6;
                entry(format!(
                    "{} over {}{left_out}; {trainable} trainable parameters on {megabytes:.0} MB of frozen weights{from}",
                    count(*steps, "step"),
                    count(*rows, "row"),
                ))
            }
            Event::Step(step) => self.step(step),
            Event::Evaluation { step, loss, tokens } => {
                if *step == 0 {
                    self.progress.first_evaluation = Some(*loss);
                }
                self.progress.last_evaluation = Some(*loss);
                let perplexity = loss.exp();
                let point = point(
                    *step,
                    [
                        (Metric::EvalLoss, *loss),
                        (Metric::EvalPerplexity, perplexity),
                    ],
                );
                let text = format!(
                    "held-out loss {loss:.4}, perplexity {perplexity:.3}, after step {step}, over {tokens} tokens"
                );
                Entry {
                    metric: Some(point),
                    ..entry(text)
                }
            }
            Event::Sample {
                step,
                prompt,
                wanted,
                answer,
            } => {
                let sample = Sample {
                    step: *step,
                    prompt: prompt.clone(),
                    wanted: wanted.clone(),
                    answer: answer.clone(),
                };
                Entry {
                    sample: Some(sample),
                    ..entry(format!("answer after step {step}: {answer}"))
                }
            }
            Event::Checkpoint { step, .. } => entry(format!("checkpoint of step {step} written")),
            Event::Note { text } => entry(text.clone()),
            Event::NoRoom { place, text } => {
                self.progress.phase = format!("waiting for room on {place}");
                (self.progress.phase_done, self.progress.phase_of) = (0, 0);
                Entry {
                    log: Some(line(LogLevel::Warn, text.clone())),
                    ..Entry::default()
                }
            }
            Event::Scores(scores) => self.scores(scores),
            Event::Finished { step, .. } => entry(format!("trained to step {step}")),
        }
    }

    /// Whether the process may be silent because other workers are not there yet.
    pub fn waits_for_others(&self) -> bool {
        self.waits_for_others
    }

    /// Whether the process has done anything that could be saved.
    pub fn has_progress(&self) -> bool {
        self.stepped
    }

    fn scores(&mut self, s: &Scores) -> Entry {
        let calls = s.calls.as_ref().map(|c| qlora_proto::CallScores {
            rows: c.rows as u64,
            valid_json: c.valid_json,
            schema_valid: c.schema_valid,
            names_match: c.names_match,
            exact_match: c.exact_match,
        });
        self.progress.last_evaluation = Some(s.loss);
        let (rows, tokens) = (s.rows as u64, s.tokens as u64);
        self.progress.scores = Some(qlora_proto::Scores {
            rows,
            tokens,
            loss: s.loss,
            perplexity: s.perplexity,
            calls,
        });
        let text = format!(
            "{} scored: loss {:.4}, perplexity {:.3}",
            count(rows, "row"),
            s.loss,
            s.perplexity
        );
        Entry {
            metric: Some(point(
                0,
                [
                    (Metric::EvalLoss, s.loss),
                    (Metric::EvalPerplexity, s.perplexity),
                ],
            )),
            ..entry(text)
        }
    }

    fn step(&mut self, s: &StepReport) -> Entry {
        // Wall time between steps counts saving and evaluating too, as a person who waits does.
        let now = Instant::now();
        let seconds = self
            .last_step
            .map_or(s.seconds, |last| now.duration_since(last).as_secs_f64());
        self.last_step = Some(now);
        self.stepped = true;
        let mean = self
            .seconds_per_step
            .map_or(seconds, |mean| mean + NEWEST * (seconds - mean));
        self.seconds_per_step = Some(mean);
        let p = &mut self.progress;
        (p.step, p.steps) = (s.step, s.steps);
        (p.phase_done, p.phase_of) = (s.step, s.steps);
        p.loss = Some(s.loss);
        p.learning_rate = Some(s.learning_rate);
        p.tokens_per_second = Some(s.tokens_per_second);
        p.seconds_left = Some(mean * s.steps.saturating_sub(s.step) as f64);
        p.peak_bytes = s.peak_bytes;
        let point = point(
            s.step,
            [
                (Metric::Loss, s.loss),
                (Metric::GradNorm, s.grad_norm),
                (Metric::LearningRate, s.learning_rate),
                (Metric::TokensPerSecond, s.tokens_per_second),
                (Metric::Skipped, f64::from(u8::from(s.skipped))),
            ],
        );
        let skipped = if s.skipped {
            "  SKIPPED: not finite"
        } else {
            ""
        };
        let text = format!(
            "step {}/{}  loss {:.4}  grad {:.3}  lr {:.2e}  {:.0} tok/s{skipped}",
            s.step, s.steps, s.loss, s.grad_norm, s.learning_rate, s.tokens_per_second
        );
        let log = Some(line(
            if s.skipped {
                LogLevel::Warn
            } else {
                LogLevel::Info
            },
            text,
        ));
        Entry {
            metric: Some(point),
            log,
            sample: None,
        }
    }
}

fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Quantizing => "quantizing the model, once for all later runs",
        Phase::Loading => "loading the model",
        Phase::Preparing => "checking gradients",
        Phase::Rendezvous => "waiting for the other workers",
        Phase::Evaluating => "evaluating",
        Phase::Training => "training",
        Phase::Saving => "saving",
    }
}

fn entry(text: String) -> Entry {
    Entry {
        log: Some(line(LogLevel::Info, text)),
        ..Entry::default()
    }
}

/// A log line of now.
pub fn line(level: LogLevel, text: String) -> LogLine {
    LogLine {
        seq: 0,
        unix_ms: jiff::Timestamp::now().as_millisecond(),
        level: level.into(),
        text,
        attempt: 0,
    }
}

fn point<const N: usize>(step: u64, values: [(Metric, f64); N]) -> MetricPoint {
    let values: HashMap<String, f64> = values
        .into_iter()
        .map(|(metric, value)| (metric.into(), value))
        .collect();
    MetricPoint {
        seq: 0,
        step,
        unix_ms: jiff::Timestamp::now().as_millisecond(),
        values,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_waits_for_its_disk_has_that_for_its_phase_until_it_goes_on() {
        let mut tracker = Tracker::default();
        let full = Event::NoRoom {
            place: "/state".into(),
            text: "no room".into(),
        };
        let log = tracker.take(&full).log.expect("a line");
        assert_eq!(log.level, LogLevel::Warn.word());
        assert_eq!(tracker.progress.phase, "waiting for room on /state");
        tracker.take(&Event::Phase {
            phase: Phase::Saving,
            done: 0,
            of: 0,
        });
        assert_eq!(tracker.progress.phase, "saving");
    }
}
