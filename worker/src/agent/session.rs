//! Register, synchronise, and act on what the coordinator wants.

use std::sync::Arc;
use std::time::Duration;

use qlora_proto::synchronize_response::Wanted;
use qlora_proto::{Assignment, DeviceClass, Platform, RegisterRequest, SynchronizeRequest, SynchronizeResponse};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::attempt::{self, Attempt, Ending};
use super::peers::Peers;
use crate::error::WorkerError;
use crate::identity::Identity;
use crate::platform::{self, Faults};
use qlora_client::Client;

/// Waits between tries to reach the coordinator.
const SHORTEST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Time within which a first connection must come about.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the coordinator may hold an answer.
const HOLD: Duration = Duration::from_secs(20);
/// Part of the lease after which an attempt that cannot renew it is stopped.
const SAFE_PART: f64 = 0.8;

/// How long a training process on a GPU may say nothing, where the person says nothing else.
const GPU_PATIENCE: u64 = 1800;

/// How a person wants the worker to be.
#[derive(Debug, Clone)]
pub struct Manners {
    /// Ends after one attempt.
    pub once: bool,
    /// Seconds that a training process may say nothing; 0 is for ever.
    pub patience: Option<u64>,
    pub peers: Peers,
}

impl Manners {
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
    manners: Manners,
    id: u64,
    lease: Duration,
    renewed: Instant,
    attempt: Option<Attempt>,
    draining: bool,
    faults: Option<Faults>,
}

/// What ends one exchange.
enum Turn {
    Answer(Result<SynchronizeResponse, Status>),
    AttemptEnded(Ending),
    LeaseEnds,
    Signal,
    /// The device is of no use any more.
    Broken(String),
}

impl Session {
    pub fn new(client: Client, name: String, identity: Arc<Identity>, platform: Platform, manners: Manners) -> Self {
        Self {
            client,
            name,
            identity,
            platform,
            manners,
            id: 0,
            lease: Duration::from_secs(30),
            renewed: Instant::now(),
            attempt: None,
            draining: false,
            faults: None,
        }
    }

    /// Serves until a signal or, with `--once`, until one attempt has ended.
    pub async fn run(mut self) -> Result<(), WorkerError> {
        let mut signals = Signals::listen()?;
        self.faults = platform::faults(&self.platform);
        tokio::select! {
            registered = self.register(Some(PATIENCE)) => registered?,
            () = signals.next() => return Ok(()),
        }
        let mut wait = SHORTEST_WAIT;
        loop {
            match self.turn(&mut signals).await {
                Turn::Answer(Ok(answer)) => {
                    wait = SHORTEST_WAIT;
                    self.renewed = Instant::now();
                    self.lease = Duration::from_millis(answer.lease_ms.into());
                    self.act(answer.wanted);
                }
                Turn::Answer(Err(status)) if status.code() == Code::Unauthenticated => {
                    tracing::info!("the coordinator does not know this session; registering again");
                    self.register(None).await?;
                }
                Turn::Answer(Err(status)) => {
                    tracing::warn!("the coordinator is away ({}); going on without it", status.message());
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                Turn::AttemptEnded(ending) => {
                    self.attempt = None;
                    if self.draining || (self.manners.once && ending == Ending::Told) {
                        return Ok(());
                    }
                    // The job goes to another machine; this one would only fail the next.
                    platform::still_fit(&self.platform)?;
                }
                Turn::Broken(fault) => return self.break_off(fault).await,
                Turn::LeaseEnds => self.stop_attempt("the lease could not be renewed in time", false),
                Turn::Signal if self.draining || self.attempt.is_none() => return Ok(()),
                Turn::Signal => {
                    tracing::info!("saving and stopping; once more stops at once");
                    self.draining = true;
                    self.stop_attempt("the worker is stopping", false);
                }
            }
        }
    }

    /// Registers, trying again while the coordinator is away; gives up after `patience` where there is one.
    async fn register(&mut self, patience: Option<Duration>) -> Result<(), WorkerError> {
        let started = Instant::now();
        let mut wait = SHORTEST_WAIT;
        loop {
            let request = RegisterRequest {
                name: self.name.clone(),
                instance: self.identity.instance.clone(),
                platform: Some(self.platform.clone()),
                running_token: self.running(),
            };
            match self.client.workers.register(request).await {
                Ok(answer) => {
                    let answer = answer.into_inner();
                    self.id = answer.session;
                    self.lease = Duration::from_millis(answer.lease_ms.into());
                    self.renewed = Instant::now();
                    tracing::info!(name = %self.name, device = %self.platform.device_name, coordinator = %self.client.address, "registered");
                    return Ok(());
                }
                Err(status) => self.judge(&status, patience.is_some_and(|p| started.elapsed() > p))?,
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// An error where trying again is of no use.
    fn judge(&self, status: &Status, impatient: bool) -> Result<(), WorkerError> {
        let refused = |help| Err(WorkerError::Refused { message: status.message().to_owned(), help });
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => refused("give --token-file FILE or set QLORA_TOKEN"),
            Code::AlreadyExists => refused("give --name NAME"),
            Code::InvalidArgument | Code::Unimplemented => {
                refused("use the same version of qlora-worker and qlora-coordinator")
            }
            _ if impatient => Err(WorkerError::Unreachable {
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
        let (memory_free, disk_free) = platform::free(&self.platform, &self.identity.folder);
        let request = SynchronizeRequest {
            session: self.id,
            running_token: self.running(),
            device_memory_free: memory_free,
            disk_free,
            draining: self.draining,
            wait_ms: HOLD.min(self.lease / 3).as_millis() as u32,
        };
        let lease_ends = self.renewed + self.lease.mul_f64(SAFE_PART);
        let watches_lease = self.attempt.as_ref().is_some_and(|a| !a.is_stopping(false));
        let mut client = self.client.workers.clone();
        let exchange = async move {
            // A call that hangs must not keep the lease from being noticed.
            match tokio::time::timeout(HOLD + Duration::from_secs(10), client.synchronize(request)).await {
                Ok(answer) => answer.map(tonic::Response::into_inner),
                Err(_) => Err(Status::deadline_exceeded("no answer")),
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
            () = tokio::time::sleep_until(lease_ends), if watches_lease => Turn::LeaseEnds,
            answer = exchange => Turn::Answer(answer),
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
            let manners = attempt::Manners {
                patience: self.manners.patience(self.platform.device_class()),
                peers: self.manners.peers.clone(),
                gpu: Some(self.platform.device_id.clone()).filter(|id| !id.is_empty()),
            };
            let state = self.identity.folder.clone();
            self.attempt = Some(Attempt::start(self.client.clone(), self.id, state, manners, assignment));
        }
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
