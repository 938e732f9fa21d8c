//! The training process: reads what to do from a file, trains, and writes events as lines of JSON to stdout.
//!
//! On stdin it hears `checkpoint` and `stop`. When stdin ends, the agent is gone, and the process ends at once:
//! no orphan goes on training. What it logs goes to stderr.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, TryRecvError};

use qlora_config::ResolvedConfig;
use qlora_trainer::Error;
use qlora_trainer::report::{Event, Phase, Reporter, Wish};
use qlora_trainer::run::Run;
use qlora_trainer::score::Evaluation;
use serde::{Deserialize, Serialize};

/// What the agent writes for the process to read.
#[derive(Debug, Serialize, Deserialize)]
pub struct Spec {
    pub config_json: String,
    pub model: PathBuf,
    pub task: Task,
}

/// What is done with the model.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    Train { train: PathBuf, eval: Option<PathBuf>, output: PathBuf, resume: Option<PathBuf>, tokens: Option<PathBuf> },
    Score { rows: PathBuf, adapter: Option<PathBuf> },
}

/// One line to the agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    Event(Event),
    Ended { blame: Option<qlora_trainer::Blame>, stopped: bool, message: String },
}

struct Stdout {
    wishes: Receiver<Wish>,
}

impl Stdout {
    fn write(line: &Line) -> Result<(), Error> {
        let text = serde_json::to_string(line).map_err(std::io::Error::other);
        let mut out = std::io::stdout().lock();
        text.and_then(|text| writeln!(out, "{text}").and_then(|()| out.flush()))
            .map_err(|source| Error::Io { path: "stdout".into(), source })
    }
}

impl Reporter for Stdout {
    fn report(&mut self, event: Event) -> Result<(), Error> {
        Self::write(&Line::Event(event))
    }

    fn wish(&mut self) -> Wish {
        match self.wishes.try_recv() {
            Ok(wish) => wish,
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => Wish::GoOn,
        }
    }
}

/// Trains what `spec` says; the exit code is 0 where the last line tells how it ended.
pub fn run(spec: &Path) -> ExitCode {
    let mut reporter = Stdout { wishes: listen() };
    let result = read(spec).and_then(|(config, spec)| execute(config, spec, &mut reporter));
    let line = match &result {
        Ok(()) => Line::Ended { blame: None, stopped: false, message: String::new() },
        Err(e) => Line::Ended { blame: Some(e.blame()), stopped: matches!(e, Error::Stopped), message: e.to_string() },
    };
    match Stdout::write(&line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn read(path: &Path) -> Result<(ResolvedConfig, Spec), Error> {
    let io = |source| Error::Io { path: path.into(), source };
    let text = std::fs::read_to_string(path).map_err(io)?;
    let spec: Spec = serde_json::from_str(&text).map_err(|e| io(std::io::Error::other(e)))?;
    let config = ResolvedConfig::from_json(&spec.config_json).map_err(|e| io(std::io::Error::other(e)))?;
    Ok((config, spec))
}

fn execute(config: ResolvedConfig, Spec { model, task, .. }: Spec, reporter: &mut dyn Reporter) -> Result<(), Error> {
    // What cannot be told here is told at the next event.
    let mut told = |done: usize, of: usize| {
        drop(reporter.report(Event::Phase { phase: Phase::Quantising, done: done as u64, of: of as u64 }));
    };
    let model = crate::models::prepared(&model, &config.config().model, &mut told);
    match task {
        Task::Train { train, eval, output, resume, tokens } => {
            Run { config, model, train, eval, output, resume, tokens }.execute(reporter)
        }
        Task::Score { rows, adapter } => Evaluation { config, model, adapter, rows }.execute(reporter),
    }
}

/// Reads wishes on a thread of its own; ends the process when the agent is gone.
fn listen() -> Receiver<Wish> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let wish = match line.as_deref() {
                Ok("checkpoint") => Wish::Checkpoint,
                Ok("stop") => Wish::Stop,
                _ => continue,
            };
            if sender.send(wish).is_err() {
                break;
            }
        }
        std::process::exit(1);
    });
    receiver
}
