//! What a run reports while it goes on.

use serde::{Deserialize, Serialize};

use crate::scores::Scores;
use crate::stop::StopSignal;
use crate::{Result, any_number};

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// A base is written in its quantized form, for this start and the next.
    Quantizing,
    Loading,
    Preparing,
    /// The others of the process group are waited for.
    Rendezvous,
    Evaluating,
    Training,
    Saving,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Phase {
        phase: Phase,
        done: u64,
        of: u64,
    },
    /// The data are read and the number of steps is known.
    Started {
        step: u64,
        steps: u64,
        trainable: u64,
        rows: u64,
        rows_left_out: u64,
        weight_bytes: u64,
    },
    Step(StepReport),
    /// Mean held-out loss in nats a token after `step` steps.
    Evaluation {
        step: u64,
        #[serde(with = "any_number")]
        loss: f64,
        tokens: u64,
    },
    /// A checkpoint lies complete in `folder`.
    Checkpoint {
        step: u64,
        folder: String,
    },
    /// A held-out question, the answer that the data give, and the model's.
    Sample {
        step: u64,
        prompt: String,
        wanted: String,
        answer: String,
    },
    Note {
        text: String,
    },
    /// The disk has no room for `place`; the run waits until it has.
    NoRoom {
        place: String,
        text: String,
    },
    /// What an evaluation has found.
    Scores(Scores),
    /// The adapter lies complete in `folder`.
    Finished {
        step: u64,
        folder: String,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Steps done, this one included.
    pub step: u64,
    pub steps: u64,
    #[serde(with = "any_number")]
    pub loss: f64,
    #[serde(with = "any_number")]
    pub grad_norm: f64,
    pub learning_rate: f64,
    pub tokens: u64,
    #[serde(with = "any_number")]
    pub tokens_per_second: f64,
    pub seconds: f64,
    pub skipped: bool,
    /// Peak resident bytes of this process.
    pub peak_bytes: u64,
}

/// What someone outside asks of a run, heard between steps; of two signals the later one here
/// counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ControlSignal {
    Continue,
    /// Save now and go on.
    Checkpoint,
    /// Save and end.
    Stop,
}

/// Carries events out and control signals in.
pub trait Reporter {
    /// # Errors
    /// Nobody listens any more: the run ends.
    fn report(&mut self, event: Event) -> Result<()>;

    fn control_signal(&mut self) -> ControlSignal {
        ControlSignal::Continue
    }

    /// Says within a step that the run is to stop: the step is broken off, and the state before it
    /// is saved.
    fn stop_signal(&self) -> StopSignal {
        StopSignal::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A skipped step is the one event that a person must see, and its loss is no number of JSON.
    #[test]
    fn events_with_numbers_that_are_not_finite_are_read_back() {
        for (value, word) in [
            (f64::NAN, "NaN"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            let text = serde_json::to_value(Event::Evaluation {
                step: 1,
                loss: value,
                tokens: 1,
            })
            .expect("JSON");
            assert!(text.to_string().contains(&format!("\"{word}\"")), "{text}");
        }
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 2.5] {
            let step = StepReport {
                step: 3,
                steps: 9,
                loss: value,
                grad_norm: value,
                learning_rate: 1e-4,
                tokens: 7,
                tokens_per_second: value,
                seconds: 0.5,
                skipped: !value.is_finite(),
                peak_bytes: 1,
            };
            let scores = Scores {
                loss: value,
                perplexity: value,
                ..Scores::default()
            };
            for event in [
                Event::Step(step),
                Event::Evaluation {
                    step: 3,
                    loss: value,
                    tokens: 7,
                },
                Event::Scores(scores),
            ] {
                let text = serde_json::to_string(&event).expect("JSON");
                let read: Event =
                    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
                assert_eq!(format!("{read:?}"), format!("{event:?}"));
            }
        }
    }
}
