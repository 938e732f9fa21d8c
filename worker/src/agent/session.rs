//! Register, synchronize, and act on what the coordinator wants.
//!
//! Whatever the worker waits for, it also reacts to signals, the end of its attempt and the end of
//! its lease. A registration tells which coordinator answers. An attempt of another coordinator
//! ends, and what it left is kept for that one.

mod registration;

use std::sync::Arc;
use std::time::Duration;

use qlora_proto::clock::Moment;
use qlora_proto::lease::Lease;
use qlora_proto::synchronize_response::Wanted;
use qlora_proto::{
    Assignment, DeviceClass, Models, Platform, RegisterResponse, SynchronizeRequest,
    SynchronizeResponse,
};
use tokio::signal::unix::SignalKind;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;

use super::attempt::{Attempt, Contact};
use super::attempt_options::AttemptOptions;
use super::coordinator_id::CoordinatorId;
use super::current::Current;
use super::delivery::Ending;
use super::kept::Kept;
use super::peers::Peers;
use super::sessions::Sessions;
use super::stopping::{Stopping, Urgency};
use crate::error::WorkerError;
use crate::identity::Identity;
use crate::models::{self, Allowed};
use crate::platform::{self, Faults};
use crate::signals::Signals;
use qlora_client::Client;
use qlora_client::retry::{Backoff, Policy, Verdict, judge};
use qlora_client::waits::{self, HOLD, LATE, STOP_AGAIN, Taken, at, come, within};

/// Time within which a first connection must come about.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a worker that is to stop waits for a coordinator that says nothing; what it leaves is
/// told at its next start.
const LEAVE: Duration = Duration::from_secs(4);
/// How long the coordinator may hold an answer to a worker that is to stop: each shows that it is
/// still there.
const HOLD_LEAVING: Duration = Duration::from_secs(1);

/// How long a training process on a GPU may say nothing, where the person says nothing else.
const GPU_PATIENCE: u64 = 1800;

/// Options of the worker.
#[derive(Debug, Clone)]
pub struct Options {
    /// Ends after one attempt.
    pub once: bool,
    /// Seconds that a training process may say nothing; 0 is forever.
    pub patience: Option<u64>,
    pub peers: Peers,
    pub allowed: Allowed,
}

impl Options {
    fn patience(&self, class: DeviceClass) -> Option<Duration> {
        let usual = if class == DeviceClass::Cpu {
            0
        } else {
            GPU_PATIENCE
        };
        Some(self.patience.unwrap_or(usual))
            .filter(|&seconds| seconds > 0)
            .map(Duration::from_secs)
    }
}

/// A worker's life.
pub struct Session {
    client: Client,
    name: String,
    identity: Arc<Identity>,
    platform: Platform,
    options: Options,
    /// The one that it has registered with.
    coordinator: Option<CoordinatorId>,
    current: Current,
    /// None until it has registered.
    lease: Option<Lease>,
    /// The attempt hears of every lease.
    leases: watch::Sender<Option<Lease>>,
    registered: bool,
    /// The coordinator can be reached from this machine only.
    loopback_only: bool,
    /// When the next exchange begins.
    not_before: Instant,
    /// The last call was not answered.
    away: bool,
    backoff: Backoff,
    /// When the first connection has to have come about.
    patient_until: Option<Instant>,
    /// Since when the coordinator refuses its token.
    refused_since: Option<Instant>,
    /// Whether another worker has its identity.
    taken: Taken,
    attempt: Option<Attempt>,
    /// What earlier attempts left, of this coordinator and of others.
    kept: Kept,
    /// Those that it was given last.
    sessions: Arc<Sessions>,
    draining: bool,
    /// When it leaves whatever the coordinator has heard by then.
    leave_at: Option<Instant>,
    faults: Option<Faults>,
}

/// What the session reacts to next.
enum SessionEvent {
    /// An answer, and when it was asked for.
    Registered(Moment, Result<RegisterResponse, Status>),
    Synchronized(Moment, Result<SynchronizeResponse, Status>),
    AttemptEnded(Ending),
    /// The lease could not be renewed: the attempt has to stop; at once, where it is over but for a
    /// moment.
    LeaseEnds(Urgency),
    Signal,
    /// Nobody is waited for any longer.
    Leave,
    /// The device is of no use any more.
    Broken(String),
}

impl Session {
    /// A worker that has `kept` what earlier attempts of it left, and the `sessions` that it was
    /// given.
    pub fn new(
        (client, options): (Client, Options),
        (name, identity, platform): (String, Arc<Identity>, Platform),
        (kept, sessions): (Kept, Arc<Sessions>),
    ) -> Self {
        // However long the coordinator is away: what is left is its job's.
        let patient_until = kept.is_empty().then(|| Instant::now() + PATIENCE);
        Self {
            client,
            name,
            identity,
            platform,
            options,
            coordinator: None,
            current: Current::default(),
            lease: None,
            leases: watch::channel(None).0,
            registered: false,
            loopback_only: false,
            not_before: Instant::now(),
            away: false,
            backoff: Backoff::new(Policy::CALL),
            patient_until,
            refused_since: None,
            taken: Taken::default(),
            attempt: None,
            kept,
            sessions,
            draining: false,
            leave_at: None,
            faults: None,
        }
    }

    /// Serves until a signal or, with `--once`, until one attempt has ended; first delivers what is
    /// kept of another.
    pub async fn run(mut self) -> Result<(), WorkerError> {
        let mut signals = Signals::listen(&[SignalKind::interrupt(), SignalKind::terminate()])
            .map_err(WorkerError::io("signals"))?;
        self.faults = platform::faults(&self.platform);
        loop {
            match self.next_event(&mut signals).await {
                SessionEvent::Registered(sent, answer) => {
                    if let Err(fault) = self.take_registration(sent, answer).await {
                        return self.give_up(fault).await;
                    }
                    if self.draining && self.attempt.is_none() {
                        return Ok(());
                    }
                }
                SessionEvent::Synchronized(sent, answer) => self.take_answer(sent, answer),
                SessionEvent::AttemptEnded(ending) => {
                    self.attempt = None;
                    if !self.away {
                        self.not_before = Instant::now();
                    }
                    if self.draining || (self.options.once && ending == Ending::Told) {
                        return Ok(());
                    }
                    // The job goes to another machine; this one would only fail the next.
                    platform::still_fit(&self.platform)?;
                }
                SessionEvent::Broken(fault) => return self.break_off(fault).await,
                SessionEvent::LeaseEnds(urgency) => {
                    self.stop_attempt(resumed("the lease could not be renewed in time", urgency));
                }
                SessionEvent::Leave => {
                    tracing::warn!(
                        "the coordinator is away; what it has not heard is kept, and told when this worker is started again"
                    );
                    self.attempt.iter().for_each(Attempt::keep_reports);
                    return Ok(());
                }
                SessionEvent::Signal if self.draining || self.attempt.is_none() => return Ok(()),
                SessionEvent::Signal => {
                    tracing::info!("saving and stopping; once more stops at once");
                    self.draining = true;
                    self.leave_at = Some(Instant::now() + LEAVE);
                    self.stop_attempt(resumed("the worker is shutting down", Urgency::Save));
                }
            }
        }
    }

    fn take_answer(&mut self, sent: Moment, answer: Result<SynchronizeResponse, Status>) {
        match answer {
            Ok(answer) => {
                self.renew(sent, answer.lease_ms);
                self.act(answer.wanted);
            }
            Err(status) if judge(&status) == Verdict::Register => {
                tracing::info!("the coordinator does not know this session; registering again");
                self.registered = false;
            }
            Err(status) => {
                match std::mem::replace(&mut self.away, true) {
                    false => tracing::warn!(
                        "the coordinator is away ({}); going on without it",
                        status.message()
                    ),
                    true => tracing::debug!("the coordinator is still away ({})", status.message()),
                }
                self.again_later(&status);
            }
        }
    }

    fn renew(&mut self, sent: Moment, lease_ms: u32) {
        let lease = Lease::new(sent, Duration::from_millis(lease_ms.into()));
        self.lease = Some(lease);
        self.leases.send_replace(Some(lease));
        self.backoff.reset();
        if std::mem::take(&mut self.away) {
            tracing::info!("the coordinator is back");
        }
        self.not_before = Instant::now();
        self.leave_at = self.draining.then(|| Instant::now() + LEAVE);
    }

    fn again_later(&mut self, status: &Status) {
        let at_stake = self.attempt.as_ref().and(self.lease);
        self.not_before = Instant::now() + waits::after(status, &mut self.backoff, at_stake);
    }

    fn running(&self) -> u64 {
        self.attempt.as_ref().map_or(0, |a| a.whose.token)
    }

    /// Waits for the next thing that happens.
    async fn next_event(&mut self, signals: &mut Signals) -> SessionEvent {
        let exchange = self.exchange();
        let (stop_at, end_at) = self.lease_ends();
        let (leave_at, over) = (self.leave_at, self.attempt.as_ref().map(Attempt::is_over));
        let leave = async move {
            at(leave_at).await;
            if let Some(over) = over {
                over.await;
            }
        };
        let ended = async {
            match &mut self.attempt {
                Some(attempt) => attempt.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            ending = ended => SessionEvent::AttemptEnded(ending),
            () = signals.next() => SessionEvent::Signal,
            fault = platform::broken(&mut self.faults) => SessionEvent::Broken(fault),
            () = come(end_at, Moment::now) => SessionEvent::LeaseEnds(Urgency::AtOnce),
            () = come(stop_at, Moment::now) => SessionEvent::LeaseEnds(Urgency::Save),
            () = leave => SessionEvent::Leave,
            event = exchange => event,
        }
    }

    /// When the attempt has to stop, and when it must have ended; never, where there is none or it
    /// has been told so.
    fn lease_ends(&self) -> (Option<Moment>, Option<Moment>) {
        let unless_told = |urgency| {
            self.attempt
                .as_ref()
                .filter(|a| !a.is_stopping(urgency))
                .and(self.lease)
        };
        (
            unless_told(Urgency::Save).map(|l| l.safe_until()),
            unless_told(Urgency::AtOnce).map(|l| l.ends()),
        )
    }

    /// One exchange with the coordinator. Dropped before it is over, it is as if it had not been.
    fn exchange(&self) -> impl Future<Output = SessionEvent> + use<> {
        let (mut client, not_before, registered) = (
            self.client.workers.clone(),
            self.not_before,
            self.registered,
        );
        let (register, synchronize) = (self.register_request(), self.synchronize_request());
        async move {
            tokio::time::sleep_until(not_before).await;
            let sent = Moment::now();
            if registered {
                SessionEvent::Synchronized(
                    sent,
                    within(HOLD + LATE, client.synchronize(synchronize)).await,
                )
            } else {
                SessionEvent::Registered(sent, within(LATE, client.register(register)).await)
            }
        }
    }

    fn synchronize_request(&self) -> SynchronizeRequest {
        let hold = if self.draining { HOLD_LEAVING } else { HOLD };
        let (memory_free, disk_free) = platform::free(&self.platform, &self.identity.folder);
        SynchronizeRequest {
            session: self.current.get(),
            running_token: self.running(),
            device_memory_free: memory_free,
            disk_free,
            draining: self.draining,
            models: Some(Models {
                names: models::here(),
            }),
            wait_ms: self
                .lease
                .map_or(hold, |lease| lease.hold(hold))
                .as_millis() as u32,
        }
    }

    fn act(&mut self, wanted: Option<Wanted>) {
        match wanted {
            Some(Wanted::Run(assignment)) => self.start(assignment),
            Some(Wanted::Stop(stop)) => {
                let urgency = if stop.at_once {
                    Urgency::AtOnce
                } else {
                    Urgency::Save
                };
                self.stop_attempt(Stopping {
                    reason: stop.reason,
                    urgency,
                    resumes: stop.resumes,
                });
                // It is said again at once, for as long as the attempt takes to save.
                self.not_before = Instant::now() + STOP_AGAIN;
            }
            Some(Wanted::GoOn(_) | Wanted::Nothing(_)) | None => {}
        }
    }

    fn start(&mut self, assignment: Assignment) {
        if self.attempt.is_none()
            && !self.draining
            && let Some(contact) = self.contact()
        {
            tracing::info!(
                job = assignment.job,
                attempt = assignment.attempt,
                "starting"
            );
            let options = AttemptOptions {
                patience: self.options.patience(self.platform.device_class()),
                peers: self.options.peers.clone(),
                allowed: self.options.allowed.clone().narrowed(self.loopback_only),
                gpu: Some(self.platform.device_id.clone()).filter(|id| !id.is_empty()),
            };
            let place = (self.name.as_str(), self.identity.folder.as_path());
            self.attempt = Some(Attempt::start(contact, place, options, assignment));
        }
    }

    /// The way to the coordinator that answers; none before one does.
    fn contact(&self) -> Option<Contact> {
        Some(Contact {
            coordinator: self.coordinator.clone()?,
            client: self.client.clone(),
            session: self.current.clone(),
            leases: self.leases.subscribe(),
        })
    }

    /// Ends for good, and leaves what the attempt has saved for the next start.
    async fn give_up(mut self, fault: WorkerError) -> Result<(), WorkerError> {
        if let Some(attempt) = self.attempt.take() {
            attempt.leave(fault.to_string()).await;
        }
        Err(fault)
    }

    /// Gives the job back, for another worker, and ends.
    async fn break_off(mut self, fault: String) -> Result<(), WorkerError> {
        self.stop_attempt(resumed(&fault, Urgency::AtOnce));
        if let Some(attempt) = &mut self.attempt {
            attempt.ended().await;
        }
        Err(WorkerError::Device(fault))
    }

    fn stop_attempt(&self, stopping: Stopping) {
        if let Some(attempt) = &self.attempt
            && !attempt.is_stopping(stopping.urgency)
        {
            tracing::info!(
                attempt = attempt.whose.token,
                reason = stopping.reason,
                "stopping"
            );
            attempt.stop(stopping);
        }
    }
}

/// What an attempt is asked whose job goes on afterwards.
fn resumed(reason: &str, urgency: Urgency) -> Stopping {
    Stopping {
        reason: reason.to_owned(),
        urgency,
        resumes: true,
    }
}
