mod watchdog;

use std::io::{BufRead, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use qlora_codes::Code;
use qlora_config::ResolvedConfig;
use qlora_trainer::process_group::{Alone, ProcessGroup};
use qlora_trainer::report::{ControlSignal, Event, Phase, Reporter};
use qlora_trainer::run::Run;
use qlora_trainer::score::Evaluation;
use qlora_trainer::stop::StopSignal;
use qlora_trainer::{Error, FailureClass};

use self::watchdog::Watchdog;
use crate::child::{LEASE, Line, RENDEZVOUS, STOP_BEAT, Spec, Task, program_fault};
use crate::process_group::{self, Rendezvous};

/// Trains one run in this process; the agent starts this.
#[derive(Debug, Args)]
pub struct Train {
    #[arg(long)]
    spec: PathBuf,
}

struct Stdout {
    signals: Receiver<ControlSignal>,
    stops: Arc<AtomicBool>,
}

/// What the agent says, by the kind of it.
struct Heard {
    signals: Receiver<ControlSignal>,
    /// Said once more, for whoever works on a step.
    stops: Arc<AtomicBool>,
    rendezvous: Receiver<Rendezvous>,
}

impl Stdout {
    fn write(line: &Line) -> Result<(), Error> {
        let text = serde_json::to_string(line).map_err(std::io::Error::other);
        let mut out = std::io::stdout().lock();
        text.and_then(|text| writeln!(out, "{text}").and_then(|()| out.flush()))
            .map_err(|source| Error::Io {
                path: "stdout".into(),
                source,
            })
    }
}

impl Reporter for Stdout {
    fn report(&mut self, event: Event) -> Result<(), Error> {
        Self::write(&Line::Event(event))
    }

    fn control_signal(&mut self) -> ControlSignal {
        match self.signals.try_recv() {
            Ok(signal) => signal,
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => ControlSignal::Continue,
        }
    }

    fn stop_signal(&self) -> StopSignal {
        let stops = self.stops.clone();
        StopSignal::new(move || stops.load(Ordering::Relaxed))
    }
}

impl Train {
    /// Trains what the spec says; the exit code is 0 where the last line tells how it ended.
    ///
    /// When stdin ends, the agent is gone, and the process ends at once: no orphan goes on
    /// training.
    pub fn run(&self) -> ExitCode {
        let Heard {
            signals,
            stops,
            rendezvous,
        } = listen();
        let mut reporter = Stdout { signals, stops };
        let panicked = note_panics();
        // Nothing is used after a panic but the words about it.
        let result = catch_unwind(AssertUnwindSafe(|| {
            read(&self.spec)
                .and_then(|(config, spec)| execute(config, spec, &rendezvous, &mut reporter))
        }));
        let ended = |failure_class, stopped, message, code: Option<Code>| Line::Ended {
            failure_class,
            stopped,
            message,
            code: code.map(String::from).unwrap_or_default(),
        };
        let line = match &result {
            Ok(Ok(())) => ended(None, false, String::new(), None),
            Ok(Err(e)) => ended(
                Some(e.failure_class()),
                matches!(e, Error::Stopped),
                e.to_string(),
                Some(e.code()),
            ),
            // The same input would end in the same way on every worker.
            Err(_) => {
                let words = panicked
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                ended(
                    Some(FailureClass::Input),
                    false,
                    program_fault(&words),
                    None,
                )
            }
        };
        match Stdout::write(&line) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        }
    }
}

/// Keeps what the first panic said, and where it was; it is told on stderr as ever.
fn note_panics() -> Arc<Mutex<String>> {
    let noted: Arc<Mutex<String>> = Arc::default();
    let (keep, tell) = (noted.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        let mut words = keep.lock().unwrap_or_else(PoisonError::into_inner);
        if words.is_empty() {
            *words = panic.to_string().replace('\n', " ");
        }
        drop(words);
        tell(panic);
    }));
    noted
}

fn read(path: &Path) -> Result<(ResolvedConfig, Spec), Error> {
    let io = |source| Error::Io {
        path: path.into(),
        source,
    };
    let text = std::fs::read_to_string(path).map_err(io)?;
    let spec: Spec = serde_json::from_str(&text).map_err(|e| io(std::io::Error::other(e)))?;
    let config =
        ResolvedConfig::from_json(&spec.config_json).map_err(|e| io(std::io::Error::other(e)))?;
    Ok((config, spec))
}

fn execute(
    config: ResolvedConfig,
    spec: Spec,
    rendezvous: &Receiver<Rendezvous>,
    reporter: &mut dyn Reporter,
) -> Result<(), Error> {
    let mut group: Box<dyn ProcessGroup> = match spec.member {
        None => Box::new(Alone),
        Some(member) => {
            reporter.report(Event::Phase {
                phase: Phase::Rendezvous,
                done: 0,
                of: 0,
            })?;
            let tell = |listening| Stdout::write(&Line::Listening(listening));
            Box::new(process_group::join(member, tell, rendezvous)?)
        }
    };
    let stop = reporter.stop_signal();
    // What cannot be told here is told at the next event.
    let mut told = |done: usize, of: usize| {
        drop(reporter.report(Event::Phase {
            phase: Phase::Quantizing,
            done: done as u64,
            of: of as u64,
        }));
        stop.check()
    };
    let model = crate::models::prepared(&spec.model, &config.config().model, &mut told);
    match spec.task {
        Task::Train {
            train,
            eval,
            output,
            resume,
            tokens,
        } => Run {
            config,
            model,
            train,
            eval,
            output,
            resume,
            tokens,
        }
        .execute(&mut *group, reporter),
        Task::Score { rows, adapter } => Evaluation {
            config,
            model,
            adapter,
            rows,
        }
        .execute(reporter),
    }
}

/// Says over and over that the process runs, whatever the training thread does: it may write
/// gigabytes, of which nothing tells. A process that is frozen says nothing, and is ended for it.
fn tell_stopping() {
    let since = Instant::now();
    loop {
        let stopping_for_s = since.elapsed().as_secs();
        if Stdout::write(&Line::Stopping { stopping_for_s }).is_err() {
            return;
        }
        std::thread::sleep(STOP_BEAT);
    }
}

/// Reads on a thread of its own; ends the process when the agent is gone.
fn listen() -> Heard {
    let ((signal, signals), (found, rendezvous)) = (mpsc::channel(), mpsc::channel());
    let stops: Arc<AtomicBool> = Arc::default();
    let (lease, heard) = (Watchdog::start(), stops.clone());
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            // Nobody listens any more only where the process is about to end.
            match line.as_deref() {
                Ok("checkpoint") => drop(signal.send(ControlSignal::Checkpoint)),
                Ok("stop") => {
                    let _ = signal.send(ControlSignal::Stop);
                    if !heard.swap(true, Ordering::Relaxed) {
                        std::thread::spawn(tell_stopping);
                    }
                }
                Ok(line) if line.starts_with(LEASE) => {
                    lease.renew(
                        line.trim_start_matches(LEASE)
                            .parse()
                            .map_or(Duration::ZERO, Duration::from_millis),
                    );
                }
                Ok(line) => {
                    let words = line
                        .strip_prefix(RENDEZVOUS)
                        .and_then(|text| serde_json::from_str(text).ok());
                    drop(words.map(|words| found.send(words)));
                }
                Err(_) => break,
            }
        }
        std::process::exit(1);
    });
    Heard {
        signals,
        stops,
        rendezvous,
    }
}
