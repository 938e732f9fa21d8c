//! Registers, synchronizes, and acts on what the coordinator wants, in the order of the agent.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use qlora_client::Client;
use qlora_client::retry::{Backoff, Policy, Verdict, judge};
use qlora_client::waits::{self, HOLD, LATE, STOP_AGAIN, Taken, come, within};
use qlora_proto::clock::Moment;
use qlora_proto::lease::Lease;
use qlora_proto::synchronize_response::Wanted;
use qlora_proto::{
    DeviceClass, GivenSession, HeldAttempt, Platform, RegisterRequest, RegisterResponse,
    SynchronizeRequest, SynchronizeResponse,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::attempt::{Attempt, Contact};
use super::machine::Machine;
use super::outbox::Current;
use super::stopping::Urgency;
use crate::sights::Sight;

pub struct Session {
    machine: Arc<Machine>,
    client: Client,
    current: Current,
    /// Of the coordinator that answers; none before one does.
    coordinator: Option<String>,
    lease: Option<Lease>,
    leases: watch::Sender<Option<Lease>>,
    registered: bool,
    not_before: Instant,
    backoff: Backoff,
    /// Whether another worker has its identity.
    taken: Taken,
    attempt: Option<Attempt>,
}

enum Heard {
    Registered(Moment, Result<RegisterResponse, Status>),
    Synchronized(Moment, Result<SynchronizeResponse, Status>),
    Ended,
    LeaseEnds(Urgency),
}

impl Session {
    pub fn new(machine: Arc<Machine>, client: Client) -> Self {
        Self {
            machine,
            client,
            current: Current::default(),
            coordinator: None,
            lease: None,
            leases: watch::channel(None).0,
            registered: false,
            not_before: Instant::now(),
            backoff: Backoff::new(Policy::CALL),
            taken: Taken::default(),
            attempt: None,
        }
    }

    /// Serves until the coordinator refuses it for good.
    pub async fn run(mut self) -> Status {
        loop {
            match self.next().await {
                Heard::Registered(sent, answer) => {
                    if let Err(fault) = self.take_registration(sent, answer) {
                        self.give_up().await;
                        return fault;
                    }
                }
                Heard::Synchronized(sent, answer) => self.take_answer(sent, answer),
                Heard::Ended => {
                    self.attempt = None;
                    self.not_before = Instant::now();
                }
                Heard::LeaseEnds(urgency) => self.stop(urgency),
            }
        }
    }

    async fn next(&mut self) -> Heard {
        let exchange = self.exchange();
        let unless_told = |urgency| {
            let attempt = self.attempt.as_ref();
            attempt
                .filter(|attempt| !attempt.is_stopping(urgency))
                .and(self.lease)
        };
        let stop_at = unless_told(Urgency::Save).map(|lease| lease.safe_until());
        let end_at = unless_told(Urgency::AtOnce).map(|lease| lease.ends());
        let ended = async {
            match &mut self.attempt {
                Some(attempt) => attempt.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            ended = ended => {
                if let Err(fault) = ended {
                    self.machine.witness.accuse(format!("the simulated worker has a fault: {fault}"));
                }
                Heard::Ended
            }
            () = come(end_at, Moment::now) => Heard::LeaseEnds(Urgency::AtOnce),
            () = come(stop_at, Moment::now) => Heard::LeaseEnds(Urgency::Save),
            heard = exchange => heard,
        }
    }

    fn exchange(&self) -> impl Future<Output = Heard> + use<> {
        let mut client = self.client.workers.clone();
        let machine = self.machine.clone();
        let (not_before, registered) = (self.not_before, self.registered);
        let (register, synchronize) = (self.register_request(), self.synchronize_request());
        async move {
            sleep_until(not_before).await;
            let sent = Moment::now();
            if registered {
                let call = client.synchronize(synchronize);
                let answer = within(HOLD + LATE, call).await;
                Heard::Synchronized(sent, machine.hears(answer))
            } else {
                let (witness, worker) = (&machine.witness, &machine.worker);
                witness.asks_for(worker, &machine.host);
                let answer = within(LATE, client.register(register)).await;
                let refused = answer.as_ref().is_err_and(|e| judge(e).is_final());
                witness.may_be(worker, &machine.host, refused);
                Heard::Registered(sent, answer)
            }
        }
    }

    fn take_registration(
        &mut self,
        sent: Moment,
        answer: Result<RegisterResponse, Status>,
    ) -> Result<(), Status> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(fault) if judge(&fault) == Verdict::Again || self.waits(&fault) => {
                self.again_later(&fault);
                return Ok(());
            }
            Err(fault) => return Err(fault),
        };
        self.machine.note("registers");
        self.machine.kept().given = Some(GivenSession {
            coordinator_id: answer.coordinator_id.clone(),
            session: answer.session,
        });
        self.coordinator = Some(answer.coordinator_id);
        self.current.store(answer.session, Relaxed);
        self.registered = true;
        self.taken.end();
        self.renew(sent, answer.lease_ms);
        self.hand_in();
        Ok(())
    }

    /// Whether a refusal is one that passes, and has time to.
    fn waits(&mut self, fault: &Status) -> bool {
        judge(fault).is_final() && self.taken.wait(fault, Instant::now()) == Some(true)
    }

    fn hand_in(&mut self) {
        let left = self.machine.kept().left.clone();
        if self.attempt.is_none()
            && let Some(left) = left
        {
            self.machine.witness.saw(Sight::HandedIn);
            self.machine
                .note(format!("hands in what it left of job {}", left.job));
            self.attempt = Some(Attempt::resume(self.contact(), left));
        }
    }

    fn take_answer(&mut self, sent: Moment, answer: Result<SynchronizeResponse, Status>) {
        match answer {
            Ok(answer) => {
                self.renew(sent, answer.lease_ms);
                self.act(answer.wanted);
            }
            Err(fault) if judge(&fault) == Verdict::Register => {
                self.machine.witness.saw(Sight::WorkerUnknown);
                self.machine.note("is not known, and registers again");
                self.registered = false;
            }
            Err(fault) => self.again_later(&fault),
        }
    }

    fn renew(&mut self, sent: Moment, lease_ms: u32) {
        let lease = Lease::new(sent, Duration::from_millis(lease_ms.into()));
        self.lease = Some(lease);
        self.leases.send_replace(Some(lease));
        self.backoff.reset();
        self.not_before = Instant::now();
    }

    fn again_later(&mut self, fault: &Status) {
        let at_stake = self.attempt.as_ref().and(self.lease);
        self.not_before = Instant::now() + waits::after(fault, &mut self.backoff, at_stake);
    }

    fn act(&mut self, wanted: Option<Wanted>) {
        match wanted {
            Some(Wanted::Run(assignment)) if self.attempt.is_none() => {
                self.attempt = Some(Attempt::start(self.contact(), assignment));
            }
            Some(Wanted::Stop(stop)) => {
                self.stop(if stop.at_once {
                    Urgency::AtOnce
                } else {
                    Urgency::Save
                });
                self.not_before = Instant::now() + STOP_AGAIN;
            }
            Some(Wanted::Run(_) | Wanted::GoOn(_) | Wanted::Nothing(_)) | None => {}
        }
    }

    fn stop(&self, urgency: Urgency) {
        if let Some(attempt) = &self.attempt
            && !attempt.is_stopping(urgency)
        {
            self.machine.note(format!("stops its attempt: {urgency:?}"));
            attempt.stop(urgency);
        }
    }

    /// Ends what it runs, and leaves the rest for the next start.
    async fn give_up(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            attempt.leave().await;
        }
    }

    fn contact(&self) -> Contact {
        Contact {
            machine: self.machine.clone(),
            client: self.client.clone(),
            session: self.current.clone(),
            leases: self.leases.subscribe(),
        }
    }

    fn synchronize_request(&self) -> SynchronizeRequest {
        let held = self.lease.map_or(HOLD, |lease| lease.hold(HOLD));
        SynchronizeRequest {
            session: self.current.load(Relaxed),
            running_token: self.attempt.as_ref().map_or(0, |attempt| attempt.token),
            wait_ms: held.as_millis() as u32,
            ..SynchronizeRequest::default()
        }
    }

    fn register_request(&self) -> RegisterRequest {
        let kept = self.machine.kept();
        let id = self.coordinator.clone();
        let id = id.or_else(|| Some(kept.given.as_ref()?.coordinator_id.clone()));
        let token = self.attempt.as_ref().map(|attempt| attempt.token);
        let token = token.or_else(|| Some(kept.left.as_ref()?.token));
        let held = id.zip(token).map(|(coordinator_id, token)| HeldAttempt {
            coordinator_id,
            token,
        });
        RegisterRequest {
            name: self.machine.worker.clone(),
            instance: self.machine.instance.clone(),
            platform: Some(Platform {
                device_class: DeviceClass::Cpu.into(),
                memory: 8 << 30,
                device_memory: 8 << 30,
                ..Platform::default()
            }),
            running_token: 0,
            held: held.into_iter().collect(),
            previous: kept.given.iter().cloned().collect(),
        }
    }
}
