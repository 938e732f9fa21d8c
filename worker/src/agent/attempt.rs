//! One attempt: get the inputs, run the child, carry out what it makes, tell how it ended.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use qlora_proto::{Assignment, JobKind, Outcome};
use qlora_trainer::report::Event;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::Instrument;

use super::current::Current;
use super::delivery::{Delivery, Ending, after_uploads};
use super::handover::{self, Handover};
use super::lease::Lease;
use super::outbox::Outbox;
use super::peers::Peers;
use super::process::{ExitStatus, Process};
use super::progress::Tracker;
use super::saved::{Kind, Saved};
use super::vitals::Vitals;
use crate::child::Line;
use crate::models::{self, Allowed};
use qlora_client::Client;
use qlora_client::transfer::TransferError;

/// How long a child may take to break its step off, save and stop before it is ended. The loss over a large vocabulary is not
/// broken off, and takes up to a minute on a slow processor.
const STOP_PATIENCE: Duration = Duration::from_secs(100);

/// A running attempt, seen from the session.
pub struct Attempt {
    pub token: u64,
    stop: watch::Sender<Option<Stopping>>,
    /// The training process has ended, and what it left is on disk.
    over: watch::Receiver<bool>,
    outbox: Arc<Outbox>,
    folder: PathBuf,
    task: JoinHandle<Ending>,
}

/// How an attempt reaches the coordinator, and how long it may go on without.
pub struct Contact {
    pub client: Client,
    pub session: Current,
    pub leases: watch::Receiver<Option<Lease>>,
}

impl Attempt {
    /// Starts what `assignment` says, as the worker `name` with its state in `state`.
    pub fn start(contact: Contact, (name, state): (&str, &Path), options: Options, assignment: Assignment) -> Self {
        let (stop, stopping) = watch::channel(None);
        let (ended, over) = watch::channel(false);
        let token = assignment.token;
        let span = tracing::info_span!("attempt", job = assignment.job, token);
        qlora_telemetry::set_parent_text(&span, &assignment.traceparent);
        // Workers of one machine share the state folder, and may share an attempt.
        let folder = state.join("jobs").join(match assignment.rank {
            0 => format!("{}-{token}", assignment.job),
            rank => format!("{}-{token}-{rank}", assignment.job),
        });
        let outbox: Arc<Outbox> = Arc::default();
        let worker = Worker {
            name: name.into(),
            folder: folder.clone(),
            tokens: state.join("tokens"),
            client: contact.client,
            session: contact.session,
            leases: contact.leases,
            assignment,
            options,
            stopping,
            ended,
            saved: Vec::new(),
            outbox: outbox.clone(),
            vitals: Vitals::new(),
        };
        Self { token, stop, over, outbox, folder, task: tokio::spawn(worker.run().instrument(span)) }
    }

    /// Delivers what an attempt left when its worker ended.
    pub fn resume(contact: Contact, left: Handover) -> Self {
        let (ended, folder, outbox) = (left.ended, left.folder, Arc::new(left.reports));
        let Contact { client, session, .. } = contact;
        let (stop, stopping) = watch::channel(None);
        let token = left.token;
        let delivery = Delivery { client, session, token, folder: folder.clone(), outbox: outbox.clone(), stopping };
        Self {
            token,
            stop,
            over: watch::channel(true).1,
            outbox,
            folder,
            task: tokio::spawn(delivery.complete(ended, left.saved)),
        }
    }

    /// Waits until the worker may end without losing anything: all that is left to do is to deliver.
    pub fn is_over(&self) -> impl Future<Output = ()> + use<> {
        let mut over = self.over.clone();
        async move {
            let _ = over.wait_for(|over| *over).await.map(drop);
        }
    }

    /// Keeps the reports that are not delivered, for when the worker is started again.
    pub fn keep_reports(&self) {
        if let Err(e) = handover::keep_reports(&self.outbox, &self.folder) {
            tracing::warn!("reports cannot be kept in {}: {e}", self.folder.display());
        }
    }

    /// Asks the attempt to save and stop, or to stop without saving.
    pub fn stop(&self, reason: &str, at_once: bool) {
        self.stop.send_replace(Some(Stopping { reason: reason.to_owned(), at_once }));
    }

    /// Whether it has been asked to stop as urgently as `at_once` says.
    pub fn is_stopping(&self, at_once: bool) -> bool {
        self.stop.borrow().as_ref().is_some_and(|stopping| stopping.at_once >= at_once)
    }

    /// Waits for the end.
    pub async fn ended(&mut self) -> Ending {
        (&mut self.task).await.unwrap_or(Ending::Refused)
    }
}

/// How an attempt was asked to stop.
#[derive(Debug, Clone)]
pub struct Stopping {
    pub reason: String,
    pub at_once: bool,
}

/// How an attempt is carried out on this worker.
#[derive(Debug, Clone)]
pub struct Options {
    /// A training process that says nothing for longer is ended.
    pub patience: Option<Duration>,
    pub peers: Peers,
    pub allowed: Allowed,
    /// The GPU that the training process sees, where there may be several.
    pub gpu: Option<String>,
}

/// Why the child was never started, or its result not delivered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
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
    fn is_full_disk(&self) -> bool {
        match self {
            Self::Model(fault) => fault.is_full_disk(),
            Self::Io { source, .. } | Self::Transfer(TransferError::Io { source, .. }) => {
                source.kind() == std::io::ErrorKind::StorageFull
            }
            _ => false,
        }
    }

    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Config(_) | Self::Model(models::ModelError::Unknown { .. }) => Outcome::BadInput,
            Self::Stopped(_) => Outcome::Stopped,
            fault if fault.is_full_disk() => Outcome::NoRoom,
            _ => Outcome::Failed,
        }
    }
}

/// The task behind an [`Attempt`].
pub(super) struct Worker {
    name: String,
    pub client: Client,
    pub session: Current,
    leases: watch::Receiver<Option<Lease>>,
    pub folder: PathBuf,
    /// Tokenised rows of earlier attempts.
    pub tokens: PathBuf,
    pub assignment: Assignment,
    pub options: Options,
    pub stopping: watch::Receiver<Option<Stopping>>,
    /// Says that the training process has ended.
    ended: watch::Sender<bool>,
    /// What the training process has completed.
    saved: Vec<Saved>,
    pub outbox: Arc<Outbox>,
    vitals: Vitals,
}

impl Worker {
    async fn run(mut self) -> Ending {
        let delivery = self.delivery();
        let reports = delivery.reports();
        let status = match self.assignment.kind() {
            JobKind::Noop => ExitStatus { outcome: Outcome::Succeeded, message: String::new() },
            _ => self
                .train(&delivery)
                .await
                .unwrap_or_else(|fault| ExitStatus { outcome: self.outcome(&fault), message: fault.to_string() }),
        };
        self.ended.send_replace(true);
        delivery.close(status, reports).await
    }

    fn delivery(&self) -> Delivery {
        Delivery {
            client: self.client.clone(),
            session: self.session.clone(),
            token: self.assignment.token,
            folder: self.folder.clone(),
            outbox: self.outbox.clone(),
            stopping: self.stopping.clone(),
        }
    }

    fn outcome(&self, fault: &Fault) -> Outcome {
        match fault.outcome() {
            // The others wait for it, and it will not come.
            Outcome::Stopped if self.assignment.size > 1 => Outcome::Lost,
            outcome => outcome,
        }
    }

    async fn train(&mut self, delivery: &Delivery) -> Result<ExitStatus, Fault> {
        let mut stopping = self.stopping.clone();
        let spec = tokio::select! {
            spec = self.prepare() => spec?,
            () = told_to_stop(&mut stopping) => return Err(Fault::Stopped("stopped before it began".into())),
        };
        let mut process = Process::start(&spec, self.options.gpu.as_deref()).map_err(self.io(&spec))?;
        let (saved, uploads) = delivery.uploads();
        let last = self.follow(&mut process, saved).await;
        let hung = matches!(last, Last::Nothing);
        let nothing_to_save = matches!(last, Last::NothingToSave);
        let mut status = process.judge(last.line()).await;
        if hung {
            status.message = hung_for(self.options.patience.unwrap_or_default());
        }
        if let Some(stopping) = self.stopping.borrow().as_ref().filter(|_| status.outcome == Outcome::Failed) {
            // It was ended because it had nothing to save, did not stop in time, or was not to save.
            let outcome = if nothing_to_save && self.assignment.size < 2 { Outcome::Stopped } else { Outcome::Lost };
            status = ExitStatus { outcome, message: stopping.reason.clone() };
        }
        self.write_handover(&status);
        self.ended.send_replace(true);
        Ok(after_uploads(uploads, status).await?)
    }

    /// Writes down what is left to deliver: all workers of an attempt do, since one that came back without it would end it
    /// for the others. Where the record cannot be written, the attempt is lost with the worker as it would be without.
    fn write_handover(&self, ended: &ExitStatus) {
        let by = (self.name.as_str(), self.assignment.token);
        if let Err(e) = handover::write(by, ended, &self.saved, (&self.outbox, &self.folder)) {
            tracing::warn!("what is left to deliver cannot be written down in {}: {e}", self.folder.display());
        }
    }

    pub(super) fn io(&self, path: &Path) -> impl FnOnce(std::io::Error) -> Fault + use<> {
        let path = path.to_owned();
        move |source| Fault::Io { path, source }
    }

    /// Listens to the child until it has nothing more to say.
    async fn follow(&mut self, process: &mut Process, saved: mpsc::UnboundedSender<Saved>) -> Last {
        let mut tracker = Tracker::default();
        let mut deadline = None;
        let mut stopping = self.stopping.clone();
        let mut abandoned = self.stopping.clone();
        let mut meetings = self.meetings();
        let mut leases = self.leases.clone();
        leases.mark_changed();
        let mut heard = tokio::time::Instant::now();
        loop {
            let patience = self.options.patience.filter(|_| !tracker.waits_for_others());
            let silent_for_too_long = patience.map(|patience| heard + patience);
            let received = tokio::select! {
                received = process.next() => match received {
                    Some(received) => received,
                    None => return Last::Gone,
                },
                () = at(silent_for_too_long) => {
                    process.kill().await;
                    return Last::Nothing;
                }
                () = told_to_stop(&mut stopping), if deadline.is_none() => {
                    if !tracker.has_progress() {
                        process.kill().await;
                        return Last::NothingToSave;
                    }
                    process.ask_to_stop().await;
                    deadline = Some(tokio::time::Instant::now() + STOP_PATIENCE);
                    continue;
                }
                () = told_to_abandon(&mut abandoned) => {
                    process.kill().await;
                    return Last::Gone;
                }
                () = at(deadline) => {
                    process.kill().await;
                    return Last::Gone;
                }
                Ok(()) = leases.changed() => {
                    let lease = *leases.borrow_and_update();
                    if let Some(lease) = lease {
                        process.tell_lease(lease.ends().saturating_duration_since(tokio::time::Instant::now())).await;
                    }
                    continue;
                }
                Some(meeting) = meetings.recv() => {
                    process.tell_meeting(&meeting).await;
                    continue;
                }
            };
            heard = tokio::time::Instant::now();
            match received {
                Line::Event(event) => self.take(event, &mut tracker, &saved),
                Line::Listening(listening) => self.offer(listening),
                ended => return Last::Line(ended),
            }
            if self.outbox.is_refused() {
                process.kill().await;
                return Last::Gone;
            }
        }
    }

    /// Passes on what happened. All of a gang see the same, and the first one tells of it.
    fn take(&mut self, event: Event, tracker: &mut Tracker, saved: &mpsc::UnboundedSender<Saved>) {
        let entry = tracker.take(&event);
        if self.assignment.rank > 0 {
            return;
        }
        if let Event::Step(step) = &event {
            self.vitals.record(step);
        }
        self.outbox.add(entry, &tracker.progress);
        let (kind, step, folder) = match event {
            Event::Checkpoint { step, folder } => (Kind::Checkpoint, step, folder),
            Event::Finished { step, folder } => (Kind::Adapter, step, folder),
            _ => return,
        };
        let done = Saved { kind, step, folder: folder.into() };
        self.saved.push(done.clone());
        drop(saved.send(done));
    }
}

/// The last that was heard of a child.
enum Last {
    Line(Line),
    /// It has closed its stdout, or was ended.
    Gone,
    /// It was ended because it had said nothing for too long.
    Nothing,
    /// It was ended because it was to stop and had done no step.
    NothingToSave,
}

impl Last {
    fn line(self) -> Option<Line> {
        match self {
            Self::Line(line) => Some(line),
            Self::Gone | Self::Nothing | Self::NothingToSave => None,
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
pub(super) async fn told_to_stop(stopping: &mut watch::Receiver<Option<Stopping>>) {
    // The session holds the sender for as long as the attempt lives.
    let _ = stopping.wait_for(Option::is_some).await.map(drop);
}

/// Waits until nothing of the attempt would be taken any more.
async fn told_to_abandon(stopping: &mut watch::Receiver<Option<Stopping>>) {
    let at_once = |stopping: &Option<Stopping>| stopping.as_ref().is_some_and(|s| s.at_once);
    let _ = stopping.wait_for(at_once).await.map(drop);
}

/// Never, where there is no time to wait for.
pub(super) async fn at(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
