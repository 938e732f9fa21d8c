//! What the agent and its training process say to each other.
//!
//! The process reads what to do from a file and writes events as lines of JSON to stdout. On stdin
//! it hears `checkpoint` and `stop`, how long its lease holds, and where it is not the first of a
//! gang, `meet` and where that one is found. What it logs goes to stderr.

use std::path::PathBuf;

use qlora_trainer::Blame;
use qlora_trainer::report::Event;
use serde::{Deserialize, Serialize};

use crate::gang::{Listening, Seat};

/// What the agent writes for the process to read.
#[derive(Debug, Serialize, Deserialize)]
pub struct Spec {
    pub config_json: String,
    pub model: PathBuf,
    pub task: Task,
    /// Its place among those that train together, where it does not train alone.
    pub seat: Option<Seat>,
}

/// What a line begins with that says where the first of the gang is found.
pub const MEET: &str = "meet ";

/// What a line begins with that says for how many milliseconds the process may go on.
pub const LEASE: &str = "lease ";

/// What is done with the model.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    Train {
        train: PathBuf,
        eval: Option<PathBuf>,
        output: PathBuf,
        resume: Option<PathBuf>,
        tokens: Option<PathBuf>,
    },
    Score {
        rows: PathBuf,
        adapter: Option<PathBuf>,
    },
}

/// One line to the agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    Event(Event),
    /// Where the other processes of the gang find this one.
    Listening(Listening),
    Ended {
        blame: Option<Blame>,
        stopped: bool,
        message: String,
        /// The error code of what `message` tells; empty where it has none.
        code: String,
    },
}

/// What is told of a panic, which said `words`.
pub fn program_fault(words: &str) -> String {
    format!("a fault of this program, which trying again does not mend: {words}; please report it")
}
