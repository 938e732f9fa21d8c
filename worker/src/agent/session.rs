//! Register, synchronise, and act on what the coordinator wants.
//!
//! Whatever the worker waits for, it hears signals, the end of its attempt and the end of its lease meanwhile.

use std::sync::Arc;
use std::time::Duration;

use qlora_proto::synchronize_response::Wanted;
use qlora_proto::{
    Assignment, DeviceClass, Platform, RegisterRequest, RegisterResponse, SynchronizeRequest, SynchronizeResponse,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::attempt::{self, Attempt, at};
use super::current::Current;
use super::delivery::Ending;
use super::handover::Handover;
use super::lease::Lease;
use super::peers::Peers;
use crate::error::WorkerError;
use crate::identity::Identity;
use crate::models::Allowed;
use crate::platform::{self, Faults};
use qlora_client::Client;
use qlora_client::retry::{Backoff, Verdict, judge};

/// Time within which a first connection must come about.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the coordinator may hold an answer.
const HOLD: Duration = Duration::from_secs(20);
/// Time beyond it after which a call is given up.
const LATE: Duration = Duration::from_secs(10);
/// How long a worker that is to stop waits for a coordinator that says nothing; what it leaves is told at its next start.
const LEAVE: Duration = Duration::from_secs(4);
/// How long the coordinator may hold an answer to a worker that is to stop: each shows that it is still there.
const HOLD_LEAVING: Duration = Duration::from_secs(1);

/// Wait between two tries while a lease runs out.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);

/// How long a training process on a GPU may say nothing, where the person says nothing else.
const GPU_PATIENCE: u64 = 1800;

/// Options of the worker.
#[derive(Debug, Clone)]
pub struct Options {
    /// Ends after one attempt.
    pub once: bool,
    /// Seconds that a training process may say nothing; 0 is for ever.
    pub patience: Option<u64>,
    pub peers: Peers,
    pub allowed: Allowed,
}

impl Options {
    fn patience(&self, class: DeviceClass) -> Option<Duration> {
        let usual = if class == DeviceClass::Cpu { 0 } else { GPU_PATIENCE };
        Some(self.patience.unwrap_or(usual)).filter(|&seconds| seconds > 0).map(Duration::from_secs)
    }
}

/// A worker's life.
pub struct Session {
    client: Client,
    name: String,
    identity: Arc<Identity>,
    platform: Platform,
    options: Options,
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
    backoff: Backoff,
    /// When the first connection has to have come about.
    patient_until: Option<Instant>,
    /// Since when the coordinator refuses its token.
    refused_since: Option<Instant>,
    attempt: Option<Attempt>,
    draining: bool,
    /// When it leaves whatever the coordinator has heard by then.
    leave_at: Option<Instant>,
    faults: Option<Faults>,
}

/// What happens next.
enum Turn {
    /// An answer, and when it was asked for.
    Registered(Instant, Result<RegisterResponse, Status>),
    Synchronized(Instant, Result<SynchronizeResponse, Status>),
    AttemptEnded(Ending),
    /// The lease could not be renewed: the attempt has to stop; at once, where it is over but for a moment.
    LeaseEnds {
        at_once: bool,
    },
    Signal,
    /// Nobody is waited for any longer.
    Leave,
    /// The device is of no use any more.
    Broken(String),
}

impl Session {
    pub fn new(client: Client, name: String, identity: Arc<Identity>, platform: Platform, options: Options) -> Self {
        Self {
            client,
            name,
            identity,
            platform,
            options,
            current: Current::default(),
            lease: None,
            leases: watch::channel(None).0,
            registered: false,
            loopback_only: false,
            not_before: Instant::now(),
            backoff: Backoff::default(),
            patient_until: Some(Instant::now() + PATIENCE),
            refused_since: None,
            attempt: None,
            draining: false,
            leave_at: None,
            faults: None,
        }
    }

    /// Serves until a signal or, with `--once`, until one attempt has ended; first delivers what is `left` of another.
    pub async fn run(mut self, left: Option<Handover>) -> Result<(), WorkerError> {
        let mut signals = Signals::listen()?;
        self.attempt = left.map(|left| {
            tracing::info!(folder = %left.folder.display(), "delivering what the last start of this worker left");
            // However long the coordinator is away: what is left is its job's.
            self.patient_until = None;
            Attempt::resume(self.contact(), left)
        });
        self.faults = platform::faults(&self.platform);
        loop {
            match self.turn(&mut signals).await {
                Turn::Registered(sent, answer) => self.take_registration(sent, answer)?,
                Turn::Synchronized(sent, answer) => self.take_answer(sent, answer),
                Turn::AttemptEnded(ending) => {
                    self.attempt = None;
                    if self.draining || (self.options.once && ending == Ending::Told) {
                        return Ok(());
                    }
                    // The job goes to another machine; this one would only fail the next.
                    platform::still_fit(&self.platform)?;
                }
                Turn::Broken(fault) => return self.break_off(fault).await,
                Turn::LeaseEnds { at_once } => self.stop_attempt("the lease could not be renewed in time", at_once),
                Turn::Leave => {
                    tracing::warn!(
                        "the coordinator is away; what it has not heard is kept, and told when this worker is started again"
                    );
                    self.attempt.iter().for_each(Attempt::keep_reports);
                    return Ok(());
                }
                Turn::Signal if self.draining || self.attempt.is_none() => return Ok(()),
                Turn::Signal => {
                    tracing::info!("saving and stopping; once more stops at once");
                    self.draining = true;
                    self.leave_at = Some(Instant::now() + LEAVE);
                    self.stop_attempt("the worker is stopping", false);
                }
            }
        }
    }

    fn take_registration(
        &mut self,
        sent: Instant,
        answer: Result<RegisterResponse, Status>,
    ) -> Result<(), WorkerError> {
        match answer {
            Ok(answer) => {
                self.current.set(answer.session);
                self.registered = true;
                self.loopback_only = answer.loopback_only;
                self.patient_until = None;
                self.refused_since = None;
                self.renew(sent, answer.lease_ms);
                tracing::info!(name = %self.name, device = %self.platform.device_name, coordinator = %self.client.address, "registered");
                Ok(())
            }
            Err(status) => {
                self.judge(&status)?;
                self.again_later();
                Ok(())
            }
        }
    }

    fn take_answer(&mut self, sent: Instant, answer: Result<SynchronizeResponse, Status>) {
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
                tracing::warn!("the coordinator is away ({}); going on without it", status.message());
                self.again_later();
            }
        }
    }

    fn renew(&mut self, sent: Instant, lease_ms: u32) {
        let lease = Lease::new(sent, Duration::from_millis(lease_ms.into()));
        self.lease = Some(lease);
        self.leases.send_replace(Some(lease));
        self.backoff.reset();
        self.not_before = Instant::now();
        self.leave_at = self.draining.then(|| Instant::now() + LEAVE);
    }

    fn again_later(&mut self) {
        // While there is something to lose, several tries fit into what is left of the lease.
        let left = self.attempt.as_ref().and(self.lease).map(|lease| lease.safe_until().duration_since(Instant::now()));
        let longest = left.map_or(Duration::MAX, |left| (left / 8).max(SHORTEST_WAIT));
        self.not_before = Instant::now() + self.backoff.take().min(longest);
    }

    /// An error where trying to register again is of no use.
    fn judge(&mut self, status: &Status) -> Result<(), WorkerError> {
        let no_token = status.code() == Code::Unauthenticated;
        self.refused_since = no_token.then(|| self.refused_since.unwrap_or_else(Instant::now));
        let hopeless = self.refused_since.is_some_and(|since| since.elapsed() > PATIENCE);
        let refused = |help| Err(WorkerError::Refused { message: status.message().to_owned(), help });
        match status.code() {
            // A coordinator of this machine may be about to leave its token.
            Code::Unauthenticated if self.client.may_find_token() && !hopeless => Ok(()),
            Code::Unauthenticated => {
                Err(WorkerError::Token { message: status.message().to_owned(), help: self.client.token_help() })
            }
            Code::PermissionDenied => refused("call the coordinator by another address, or let it allow this one"),
            Code::AlreadyExists => refused("give --name NAME"),
            Code::InvalidArgument | Code::Unimplemented => {
                refused("use the same version of qlora-worker and qlora-coordinator")
            }
            _ if self.patient_until.is_some_and(|until| until < Instant::now()) => Err(WorkerError::Unreachable {
                address: self.client.address.clone(),
                fault: status.message().to_owned(),
            }),
            _ => Ok(()),
        }
    }

    fn running(&self) -> u64 {
        self.attempt.as_ref().map_or(0, |a| a.token)
    }

    /// Waits for the next thing that happens.
    async fn turn(&mut self, signals: &mut Signals) -> Turn {
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
            ending = ended => Turn::AttemptEnded(ending),
            () = signals.next() => Turn::Signal,
            fault = platform::broken(&mut self.faults) => Turn::Broken(fault),
            () = at(end_at) => Turn::LeaseEnds { at_once: true },
            () = at(stop_at) => Turn::LeaseEnds { at_once: false },
            () = leave => Turn::Leave,
            turn = exchange => turn,
        }
    }

    /// When the attempt has to stop, and when it must have ended; never, where there is none or it has been told so.
    fn lease_ends(&self) -> (Option<Instant>, Option<Instant>) {
        let unless_told = |at_once| self.attempt.as_ref().filter(|a| !a.is_stopping(at_once)).and(self.lease);
        (unless_told(false).map(|l| l.safe_until()), unless_told(true).map(|l| l.ends()))
    }

    /// One exchange with the coordinator. Dropped before it is over, it is as if it had not been.
    fn exchange(&self) -> impl Future<Output = Turn> + use<> {
        let (mut client, not_before, registered) = (self.client.workers.clone(), self.not_before, self.registered);
        let (register, synchronize) = (self.register_request(), self.synchronize_request());
        async move {
            tokio::time::sleep_until(not_before).await;
            let sent = Instant::now();
            if registered {
                Turn::Synchronized(sent, within(HOLD + LATE, client.synchronize(synchronize)).await)
            } else {
                Turn::Registered(sent, within(LATE, client.register(register)).await)
            }
        }
    }

    fn register_request(&self) -> RegisterRequest {
        RegisterRequest {
            name: self.name.clone(),
            instance: self.identity.instance.clone(),
            platform: Some(self.platform.clone()),
            running_token: self.running(),
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
            wait_ms: self.lease.map_or(hold, |lease| lease.hold(hold)).as_millis() as u32,
        }
    }

    fn act(&mut self, wanted: Option<Wanted>) {
        match wanted {
            Some(Wanted::Run(assignment)) => self.start(assignment),
            Some(Wanted::Stop(stop)) => self.stop_attempt(&stop.reason, stop.at_once),
            Some(Wanted::GoOn(_) | Wanted::Nothing(_)) | None => {}
        }
    }

    fn start(&mut self, assignment: Assignment) {
        if self.attempt.is_none() && !self.draining {
            tracing::info!(job = assignment.job, attempt = assignment.token, "starting");
            let options = attempt::Options {
                patience: self.options.patience(self.platform.device_class()),
                peers: self.options.peers.clone(),
                allowed: self.options.allowed.clone().narrowed(self.loopback_only),
                gpu: Some(self.platform.device_id.clone()).filter(|id| !id.is_empty()),
            };
            let place = (self.name.as_str(), self.identity.folder.as_path());
            self.attempt = Some(Attempt::start(self.contact(), place, options, assignment));
        }
    }

    fn contact(&self) -> attempt::Contact {
        attempt::Contact { client: self.client.clone(), session: self.current.clone(), leases: self.leases.subscribe() }
    }

    /// Gives the job back, for another worker, and ends.
    async fn break_off(mut self, fault: String) -> Result<(), WorkerError> {
        self.stop_attempt(&fault, true);
        if let Some(attempt) = &mut self.attempt {
            attempt.ended().await;
        }
        Err(WorkerError::Device(fault))
    }

    fn stop_attempt(&self, reason: &str, at_once: bool) {
        if let Some(attempt) = &self.attempt
            && !attempt.is_stopping(at_once)
        {
            tracing::info!(attempt = attempt.token, reason, "stopping");
            attempt.stop(reason, at_once);
        }
    }
}

/// A call that hangs is given up.
async fn within<T>(
    time: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(time, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer")),
    }
}

/// The signals that end a worker.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> Result<Self, WorkerError> {
        let listen = |kind| signal(kind).map_err(WorkerError::io("signals"));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! { _ = self.interrupt.recv() => {}, _ = self.terminate.recv() => {} }
    }
}
