//! What a run tells while it goes on.

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::score::Scores;

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// A base is written in its quantised form, for this start and the next.
    Quantising,
    Loading,
    Preparing,
    /// The others of the group are waited for.
    Meeting,
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
    pub loss: f64,
    pub grad_norm: f64,
    pub learning_rate: f64,
    pub tokens: u64,
    pub tokens_per_second: f64,
    pub seconds: f64,
    pub skipped: bool,
    /// Peak resident bytes of this process.
    pub peak_bytes: u64,
}

/// What someone outside asks of a run, heard between steps; of two wishes the later one here counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    GoOn,
    /// Save now and go on.
    Checkpoint,
    /// Save and end.
    Stop,
}

/// Carries events out and wishes in.
pub trait Reporter {
    /// # Errors
    /// Nobody listens any more: the run ends.
    fn report(&mut self, event: Event) -> Result<()>;

    fn wish(&mut self) -> Wish {
        Wish::GoOn
    }
}
