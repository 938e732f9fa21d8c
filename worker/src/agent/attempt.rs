//! One attempt: get the inputs, run the child, carry out what it makes, tell how it ended.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use qlora_config::ResolvedConfig;
use qlora_proto::{Assignment, FinishRequest, JobFile, JobKind, Outcome};
use qlora_trainer::report::Event;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tonic::Code;
use tracing::Instrument;

use super::outbox::Outbox;
use super::process::{Judgement, Process};
use super::progress::{Tracker, line};
use super::token_cache;
use super::upload::{Saved, Uploader};
use super::vitals::Vitals;
use crate::child::{Line, Spec, Task};
use crate::models::{self, Progress as FetchProgress};
use qlora_client::Client;
use qlora_client::transfer::{self, TransferError, unwatched};

/// How long a child may take to save and stop before it is ended.
const STOP_PATIENCE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(500);

/// How the coordinator took the end of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It knows how the attempt ended.
    Told,
    /// The attempt was not current any more.
    Refused,
}

/// A running attempt, seen from the session.
pub struct Attempt {
    pub token: u64,
    stop: watch::Sender<Option<String>>,
    task: JoinHandle<Ending>,
}

impl Attempt {
    /// A training process that says nothing for longer than `patience` is ended.
    pub fn start(
        client: Client,
        session: u64,
        state: PathBuf,
        patience: Option<Duration>,
        assignment: Assignment,
    ) -> Self {
        let (stop, stopping) = watch::channel(None);
        let token = assignment.token;
        let span = tracing::info_span!("attempt", job = assignment.job, token);
        qlora_telemetry::set_parent_text(&span, &assignment.traceparent);
        let worker = Worker {
            folder: state.join("jobs").join(format!("{}-{token}", assignment.job)),
            tokens: state.join("tokens"),
            client,
            session,
            assignment,
            patience,
            stopping,
            outbox: Arc::default(),
            vitals: Vitals::new(),
        };
        Self { token, stop, task: tokio::spawn(worker.run().instrument(span)) }
    }

    /// Asks the attempt to save and stop.
    pub fn stop(&self, reason: &str) {
        self.stop.send_replace(Some(reason.to_owned()));
    }

    pub fn is_stopping(&self) -> bool {
        self.stop.borrow().is_some()
    }

    /// Waits for the end.
    pub async fn ended(&mut self) -> Ending {
        (&mut self.task).await.unwrap_or(Ending::Refused)
    }
}

/// Why the child was never started, or its result not delivered.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("the configuration cannot be read: {0}")]
    Config(#[from] qlora_config::ConfigErrors),
    #[error(transparent)]
    Model(#[from] models::ModelError),
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{0}")]
    Stopped(String),
}

impl Fault {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Config(_) | Self::Model(models::ModelError::Unknown { .. }) => Outcome::BadInput,
            Self::Stopped(_) => Outcome::Stopped,
            _ => Outcome::Failed,
        }
    }
}

/// The task behind an [`Attempt`].
struct Worker {
    client: Client,
    session: u64,
    folder: PathBuf,
    /// Tokenised rows of earlier attempts.
    tokens: PathBuf,
    assignment: Assignment,
    patience: Option<Duration>,
    stopping: watch::Receiver<Option<String>>,
    outbox: Arc<Outbox>,
    vitals: Vitals,
}

impl Worker {
    async fn run(mut self) -> Ending {
        let token = self.assignment.token;
        let delivery = tokio::spawn(self.outbox.clone().deliver(self.client.clone(), self.session, token));
        let judgement = match self.assignment.kind() {
            JobKind::Noop => Judgement { outcome: Outcome::Succeeded, message: String::new() },
            _ => self
                .train()
                .await
                .unwrap_or_else(|fault| Judgement { outcome: fault.outcome(), message: fault.to_string() }),
        };
        let ending = self.finish(judgement).await;
        delivery.abort();
        let _ = tokio::fs::remove_dir_all(&self.folder).await;
        ending
    }

    async fn train(&mut self) -> Result<Judgement, Fault> {
        let spec = self.prepare().await?;
        let mut process = Process::start(&spec).map_err(self.io(&spec))?;
        let (saved, uploads) = mpsc::unbounded_channel();
        let uploader = Uploader {
            client: self.client.clone(),
            session: self.session,
            token: self.assignment.token,
            work: self.folder.clone(),
        };
        let uploader = tokio::spawn(uploader.run(uploads));
        let last = self.follow(&mut process, saved).await;
        let hung = matches!(last, Last::Nothing);
        let mut judgement = process.judge(last.line()).await;
        if hung {
            judgement.message = hung_for(self.patience.unwrap_or_default());
        }
        // What the child saved is worth keeping even where it failed.
        match uploader.await {
            Ok(Ok(())) => Ok(judgement),
            Ok(Err(e)) if judgement.outcome == Outcome::Succeeded => Err(e.into()),
            _ => Ok(judgement),
        }
    }

    fn io(&self, path: &Path) -> impl FnOnce(std::io::Error) -> Fault + use<> {
        let path = path.to_owned();
        move |source| Fault::Io { path, source }
    }

    /// Brings everything here that the child needs, and writes down what it should do.
    async fn prepare(&mut self) -> Result<PathBuf, Fault> {
        tokio::fs::create_dir_all(&self.folder).await.map_err(self.io(&self.folder))?;
        let config = ResolvedConfig::from_json(&self.assignment.config_json)?;
        let task = match self.assignment.kind() {
            JobKind::Eval => self.scoring().await?,
            _ => self.training().await?,
        };
        let model = self.model(config.config().model.base.clone().unwrap_or_default()).await?;
        let spec = Spec { config_json: self.assignment.config_json.clone(), model, task };
        token_cache::trim(&self.tokens);
        let path = self.folder.join("spec.json");
        let text = serde_json::to_vec(&spec).unwrap_or_default();
        tokio::fs::write(&path, text).await.map_err(self.io(&path))?;
        Ok(path)
    }

    async fn training(&self) -> Result<Task, Fault> {
        let output = self.folder.join("output");
        tokio::fs::create_dir_all(&output).await.map_err(self.io(&output))?;
        let resume = match &self.assignment.checkpoint {
            Some(checkpoint) => {
                self.outbox.log(line("info", format!("going on from the checkpoint of step {}", checkpoint.step)));
                Some(self.fetch_folder("resume", &checkpoint.digest).await?)
            }
            None => None,
        };
        Ok(Task::Train {
            train: self.fetch_rows("train").await?.unwrap_or_default(),
            eval: self.fetch_rows("eval").await?,
            output,
            resume,
            tokens: Some(self.tokens.clone()),
        })
    }

    async fn scoring(&self) -> Result<Task, Fault> {
        let adapter = match self.input("adapter") {
            Some(file) => Some(self.fetch_folder("adapter", &file.digest).await?),
            None => None,
        };
        Ok(Task::Score { rows: self.fetch_rows("eval").await?.unwrap_or_default(), adapter })
    }

    fn input(&self, role: &str) -> Option<&JobFile> {
        self.assignment.files.iter().find(|file| file.role == role)
    }

    /// The rows of `role`, brought here where the job has any.
    async fn fetch_rows(&self, role: &str) -> Result<Option<PathBuf>, Fault> {
        let Some(file) = self.input(role) else { return Ok(None) };
        let path = self.folder.join(format!("{role}.jsonl"));
        transfer::download(&self.client, &file.digest, &path, &unwatched).await?;
        Ok(Some(path))
    }

    /// An archive of the store, unpacked as `name`.
    async fn fetch_folder(&self, name: &str, digest: &str) -> Result<PathBuf, Fault> {
        let archive = self.folder.join(format!("{name}.tar"));
        transfer::download(&self.client, digest, &archive, &unwatched).await?;
        let folder = self.folder.join(name);
        qlora_client::unpack(&archive, &folder)?;
        tokio::fs::remove_file(&archive).await.map_err(self.io(&archive))?;
        Ok(folder)
    }

    /// The model's path; fetched here when it is missing, which can be stopped.
    async fn model(&mut self, name: String) -> Result<PathBuf, Fault> {
        let told = Told { outbox: self.outbox.clone() };
        let fetch = tokio::task::spawn_blocking(move || models::resolve(&name, &told));
        let mut stopping = self.stopping.clone();
        tokio::select! {
            fetched = fetch => match fetched {
                Ok(path) => Ok(path?),
                Err(e) => Err(Fault::Stopped(e.to_string())),
            },
            () = told_to_stop(&mut stopping) => Err(Fault::Stopped("stopped while the model was fetched".into())),
        }
    }

    /// Listens to the child until it has nothing more to say.
    async fn follow(&mut self, process: &mut Process, saved: mpsc::UnboundedSender<Saved>) -> Last {
        let mut tracker = Tracker::default();
        let mut deadline = None;
        let mut stopping = self.stopping.clone();
        loop {
            let kill_at = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let patience = self.patience;
            let silent = async {
                match patience {
                    Some(patience) => tokio::time::sleep(patience).await,
                    None => std::future::pending().await,
                }
            };
            let received = tokio::select! {
                received = process.next() => match received {
                    Some(received) => received,
                    None => return Last::Gone,
                },
                () = silent => {
                    process.kill().await;
                    return Last::Nothing;
                }
                () = told_to_stop(&mut stopping), if deadline.is_none() => {
                    process.ask_to_stop().await;
                    deadline = Some(tokio::time::Instant::now() + STOP_PATIENCE);
                    continue;
                }
                () = kill_at => {
                    process.kill().await;
                    return Last::Gone;
                }
            };
            let Line::Event(event) = received else { return Last::Line(received) };
            if let Event::Step(step) = &event {
                self.vitals.record(step);
            }
            let entry = tracker.take(&event);
            self.outbox.add(entry, &tracker.progress);
            match event {
                Event::Checkpoint { step, folder } => {
                    drop(saved.send(Saved { kind: "checkpoint", step, folder: folder.into() }))
                }
                Event::Finished { step, folder } => {
                    drop(saved.send(Saved { kind: "adapter", step, folder: folder.into() }))
                }
                _ => {}
            }
            if self.outbox.is_refused() {
                process.kill().await;
                return Last::Gone;
            }
        }
    }

    /// Tells the coordinator how the attempt ended, trying until it knows.
    async fn finish(&mut self, judgement: Judgement) -> Ending {
        if judgement.outcome != Outcome::Succeeded && !judgement.message.is_empty() {
            tracing::warn!(outcome = ?judgement.outcome, "{}", judgement.message);
            self.outbox.log(line("error", judgement.message.clone()));
        }
        if !self.outbox.flush().await {
            return Ending::Refused;
        }
        let request = FinishRequest {
            session: self.session,
            token: self.assignment.token,
            outcome: judgement.outcome.into(),
            message: judgement.message,
        };
        loop {
            match self.client.workers.finish(request.clone()).await {
                Ok(_) => return Ending::Told,
                Err(status)
                    if matches!(status.code(), Code::FailedPrecondition | Code::NotFound | Code::InvalidArgument) =>
                {
                    tracing::warn!("the end of the attempt is refused: {}", status.message());
                    return Ending::Refused;
                }
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }
}

/// The last that was heard of a child.
enum Last {
    Line(Line),
    /// It has closed its stdout, or was ended.
    Gone,
    /// It was ended because it had said nothing for too long.
    Nothing,
}

impl Last {
    fn line(self) -> Option<Line> {
        match self {
            Self::Line(line) => Some(line),
            Self::Gone | Self::Nothing => None,
        }
    }
}

fn hung_for(patience: Duration) -> String {
    let seconds = patience.as_secs();
    format!(
        "the training process said nothing for {seconds} s and was ended: a hung device, or steps longer than the worker's --patience"
    )
}

/// Waits until there is a reason to stop.
async fn told_to_stop(stopping: &mut watch::Receiver<Option<String>>) {
    // The session holds the sender for as long as the attempt lives.
    let _ = stopping.wait_for(Option::is_some).await.map(drop);
}

/// Tells of a download through the job's log.
struct Told {
    outbox: Arc<Outbox>,
}

impl FetchProgress for Told {
    fn start(&self, what: &str, bytes: u64) {
        self.outbox.log(line("info", format!("fetching {what}, {:.0} MB", bytes as f64 / 1e6)));
    }

    fn at(&self, _: u64) {}

    fn note(&self, text: &str) {
        self.outbox.log(line("info", text.to_owned()));
    }
}
