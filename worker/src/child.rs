//! What the agent and its training process say to each other.
//!
//! The process reads its task from a file and writes events as lines of JSON to stdout. On stdin it
//! receives `checkpoint`, `stop` and how long its lease holds. A process that is not the first of a
//! process group also receives `rendezvous` and where the first one is found. It logs to stderr.

use std::path::PathBuf;
use std::time::Duration;

use qlora_trainer::FailureClass;
use qlora_trainer::report::Event;
use serde::{Deserialize, Serialize};

use crate::process_group::{Listening, Member};

/// What the agent writes for the process to read.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    pub config_json: String,
    pub model: PathBuf,
    pub task: Task,
    /// Which process of a group it is, where it does not train alone.
    pub member: Option<Member>,
}

/// What a line begins with that says where the first of the process group is found.
pub const RENDEZVOUS: &str = "rendezvous ";

/// What a line begins with that says for how many milliseconds the process may go on.
pub const LEASE: &str = "lease ";

/// How often a process that was asked to stop says that it runs.
pub const STOP_BEAT: Duration = Duration::from_secs(2);

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
    /// Where the other processes of the group find this one.
    Listening(Listening),
    /// It was asked to stop and is not frozen. How far it has come, this does not say.
    Stopping {
        stopping_for_s: u64,
    },
    Ended {
        failure_class: Option<FailureClass>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read_as_what_it_was_written_as() {
        let ended = Line::Ended {
            failure_class: None,
            stopped: true,
            message: String::new(),
            code: String::new(),
        };
        let note = Line::Event(Event::Note { text: "x".into() });
        for line in [Line::Stopping { stopping_for_s: 4 }, ended, note] {
            let text = serde_json::to_string(&line).expect("a line");
            let read: Line = serde_json::from_str(&text).expect("a line");
            assert_eq!(format!("{read:?}"), format!("{line:?}"));
        }
    }

    /// A program that is replaced while its agent goes on would else train alone, without a word.
    #[test]
    fn a_spec_of_another_version_is_refused_by_the_name_of_what_is_strange() {
        let spec = |other: &str| {
            let task = r#"{"score": {"rows": "rows.jsonl", "adapter": null}}"#;
            let text = format!(r#"{{"config_json": "{{}}", "model": "m", "task": {task}{other}}}"#);
            serde_json::from_str::<Spec>(&text)
        };
        let alone = spec("").expect("a spec");
        assert_eq!(alone.member, None);
        let member = r#", "member": {"rank": 1, "world_size": 2, "port": 0}"#;
        let world_size = spec(member).expect("a spec").member.map(|m| m.world_size);
        assert_eq!(world_size, Some(2));
        for strange in ["seat", "place"] {
            let fault = spec(&member.replace("member", strange)).expect_err("a fault");
            assert!(fault.to_string().contains(strange), "{fault}");
        }
    }
}
