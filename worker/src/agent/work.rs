//! What an attempt does: get the inputs, run the child, deliver what it makes, report how it ended.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use qlora_client::Client;
use qlora_client::waits::at;
use qlora_proto::clock::Moment;
use qlora_proto::lease::Lease;
use qlora_proto::{Assignment, JobKind, LogLevel, Outcome};
use qlora_trainer::report::Event;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::attempt_options::AttemptOptions;
use super::current::Current;
use super::delivery::{Delivery, Ending, Uploads};
use super::exit_status::ExitStatus;
use super::fault::Fault;
use super::handover::Whose;
use super::instruments::Instruments;
use super::outbox::Outbox;
use super::process::Process;
use super::progress::{Tracker, line};
use super::rendezvous::Exchange;
use super::saved::{Kind, Saved};
use super::spool::Spool;
use super::stopping::{StopBy, Stopping, Stops, Urgency, told_to};
use crate::child::Line;
use crate::process_group::{Listening, Rendezvous};

/// How often it is looked whether the coordinator takes what is reported.
const LOOK: Duration = Duration::from_secs(5);

/// The task behind an [`Attempt`](super::attempt::Attempt).
pub(super) struct Work {
    pub whose: Whose,
    pub client: Client,
    pub session: Current,
    pub leases: watch::Receiver<Option<Lease>>,
    pub folder: PathBuf,
    /// Tokenized rows of earlier attempts.
    pub tokens: PathBuf,
    pub assignment: Assignment,
    pub options: AttemptOptions,
    pub stopping: Stops,
    /// Says that the training process has ended.
    pub ended: watch::Sender<bool>,
    /// What the training process has completed.
    pub saved: Vec<Saved>,
    pub outbox: Arc<Outbox>,
    pub instruments: Instruments,
    /// Tasks that end with this one.
    pub helpers: JoinSet<()>,
}

impl Work {
    pub async fn run(mut self) -> Ending {
        let delivery = self.delivery();
        let reports = delivery.reports();
        let (status, uploads) = match self.assignment.kind() {
            JobKind::Noop => (ExitStatus::succeeded(), None),
            _ => match self.train(&delivery).await {
                Ok((status, uploads)) => (status, Some(uploads)),
                Err(fault) => (self.not_started(&fault), None),
            },
        };
        self.ended.send_replace(true);
        delivery.close(status, uploads, reports).await
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

    fn not_started(&self, fault: &Fault) -> ExitStatus {
        let status = fault.status();
        let outcome = match status.outcome {
            // The others wait for it, and it will not come.
            Outcome::Stopped if self.assignment.size > 1 => Outcome::Lost,
            outcome => outcome,
        };
        ExitStatus { outcome, ..status }
    }

    /// How the training process ended, and the uploads that may go on.
    async fn train(&mut self, delivery: &Delivery) -> Result<(ExitStatus, Uploads), Fault> {
        let mut stopping = self.stopping.clone();
        let spec = tokio::select! {
            spec = self.prepare() => spec?,
            () = told_to(&mut stopping, Urgency::Save) => return Err(Fault::Stopped(self.stopping())),
        };
        let mut process =
            Process::start(&spec, self.options.gpu.as_deref()).map_err(Fault::io(&spec))?;
        let (saved, uploads) = delivery.uploads();
        let mut spool = Spool::new(self.whose.clone(), self.outbox.clone(), self.folder.clone());
        let last = self.follow(&mut process, saved, &mut spool).await;
        let status = self.judge(process, last).await;
        spool.close(&status, &self.saved).await;
        self.ended.send_replace(true);
        Ok((status, uploads))
    }

    /// How the attempt ended: as its process did, unless that was our doing.
    async fn judge(&self, process: Process, last: Last) -> ExitStatus {
        let hung = matches!(last, Last::Nothing);
        let nothing_to_save = matches!(last, Last::NothingToSave);
        let mut status = process.judge(last.line()).await;
        if hung {
            status.message = hung_for(self.options.patience.unwrap_or_default());
        }
        let told = self.stopping.borrow().is_some();
        match status.outcome {
            Outcome::Stopped => self.stopped(Outcome::Stopped),
            // It was ended because it had nothing to save, did not stop in time, or was not to
            // save.
            Outcome::Failed if told => {
                let outcome = if nothing_to_save && self.assignment.size < 2 {
                    Outcome::Stopped
                } else {
                    Outcome::Lost
                };
                self.stopped(outcome)
            }
            _ => status,
        }
    }

    /// Why the attempt stops.
    fn stopping(&self) -> Stopping {
        self.stopping
            .borrow()
            .clone()
            .unwrap_or_else(Stopping::with_another)
    }

    fn stopped(&self, outcome: Outcome) -> ExitStatus {
        let Stopping {
            reason, resumes, ..
        } = self.stopping();
        ExitStatus {
            resumes,
            ..ExitStatus::of(outcome, reason)
        }
    }

    /// Listens to the child until it has nothing more to say.
    async fn follow(
        &mut self,
        process: &mut Process,
        saved: mpsc::UnboundedSender<Saved>,
        spool: &mut Spool,
    ) -> Last {
        let mut tracker = Tracker::default();
        let mut stop_by: Option<StopBy> = None;
        let mut stopping = self.stopping.clone();
        let mut abandoned = self.stopping.clone();
        let mut rendezvous = self.rendezvous();
        let mut leases = self.leases.clone();
        leases.mark_changed();
        let mut heard = tokio::time::Instant::now();
        let mut look = heard + LOOK;
        loop {
            let patience = self
                .options
                .patience
                .filter(|_| !tracker.waits_for_others());
            let silent_for_too_long = patience.map(|patience| heard + patience);
            // What has been said is heard before it is judged that nothing was.
            let received = tokio::select! {
                biased;
                () = told_to(&mut stopping, Urgency::Save), if stop_by.is_none() => {
                    if !tracker.has_progress() {
                        process.kill().await;
                        return Last::NothingToSave;
                    }
                    process.ask_to_stop();
                    stop_by = Some(StopBy::asked(tokio::time::Instant::now()));
                    continue;
                }
                () = told_to(&mut abandoned, Urgency::AtOnce) => {
                    process.kill().await;
                    return Last::Gone;
                }
                Ok(()) = leases.changed() => {
                    let lease = *leases.borrow_and_update();
                    if let Some(lease) = lease {
                        process.tell_lease(lease.ends().since(Moment::now()));
                    }
                    continue;
                }
                Some(found) = rendezvous.recv() => {
                    process.tell_rendezvous(&found);
                    continue;
                }
                () = at(Some(look)) => {
                    spool.look(&self.saved).await;
                    look = tokio::time::Instant::now() + LOOK;
                    continue;
                }
                received = process.next() => match received {
                    Some(received) => received,
                    None => return Last::Gone,
                },
                () = at(silent_for_too_long) => {
                    process.kill().await;
                    return Last::Nothing;
                }
                () = at(stop_by.map(|by| by.at())) => {
                    process.kill().await;
                    stop_by.iter().for_each(|by| self.tell(by.why()));
                    return Last::Gone;
                }
            };
            let now = tokio::time::Instant::now();
            stop_by.iter_mut().for_each(|by| by.hear(now));
            let goes_on = !matches!(received, Line::Ended { .. });
            // A child that never stops talking does not let the time above come.
            if let Some(by) = stop_by.filter(|by| goes_on && by.is_over(now)) {
                process.kill().await;
                self.tell(by.why());
                return Last::Gone;
            }
            if matches!(received, Line::Stopping { .. }) {
                continue;
            }
            heard = now;
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

    fn tell(&self, text: String) {
        tracing::warn!("{text}");
        self.outbox.log(line(LogLevel::Warn, text));
    }

    /// Says where the others find this one.
    fn offer(&mut self, listening: Listening) {
        let addresses = self
            .options
            .peers
            .addresses(self.client.current_address(), listening.port);
        self.outbox.log(line(
            LogLevel::Info,
            format!(
                "the other workers find the first at {}",
                addresses.join(", ")
            ),
        ));
        let own = Rendezvous {
            addresses,
            secret: listening.secret,
        };
        self.helpers.spawn(self.exchange().offer(own));
    }

    /// Where the first worker is found, as soon as it is known; nothing for the first one itself.
    fn rendezvous(&mut self) -> mpsc::Receiver<Rendezvous> {
        let (sender, receiver) = mpsc::channel(1);
        if self.assignment.rank > 0 {
            self.helpers.spawn(self.exchange().find(sender));
        }
        receiver
    }

    fn exchange(&self) -> Exchange {
        Exchange {
            client: self.client.clone(),
            session: self.session.clone(),
            token: self.assignment.token,
        }
    }

    /// Passes on what happened. All of a process group see the same, and the first one tells of it.
    fn take(&mut self, event: Event, tracker: &mut Tracker, saved: &mpsc::UnboundedSender<Saved>) {
        let entry = tracker.take(&event);
        if self.assignment.rank > 0 {
            return;
        }
        match &event {
            Event::Step(step) => self.instruments.record(step),
            Event::NoRoom { text, .. } => tracing::warn!("{text}"),
            _ => {}
        }
        self.outbox.add(entry, &tracker.progress);
        let (kind, step, folder) = match event {
            Event::Checkpoint { step, folder } => (Kind::Checkpoint, step, folder),
            Event::Finished { step, folder } => (Kind::Adapter, step, folder),
            _ => return,
        };
        let done = Saved {
            kind,
            step,
            folder: folder.into(),
        };
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
