//! Registers, and finds out which coordinator answers.
//!
//! All coordinators number their jobs alike, and another one may answer at the same address, such
//! as one whose database was lost. What belongs to one coordinator is never told to another.

use qlora_client::retry::{Verdict, judge};
use qlora_proto::clock::Moment;
use qlora_proto::{RegisterRequest, RegisterResponse};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{PATIENCE, Session};
use crate::agent::attempt::Attempt;
use crate::agent::coordinator_id::CoordinatorId;
use crate::agent::current::Current;
use crate::error::WorkerError;

/// The way out where worker and coordinator do not understand each other.
const SAME_VERSION: &str = "use the same version of qlora-worker and qlora-coordinator";

/// The way out once it has waited for its own identity for long enough.
const ONE_EACH: &str = "delete the file `instance` of the copied state folder, or give --name NAME";

/// The way out where the coordinator refuses the registration for good.
fn way_out(code: Code) -> &'static str {
    match code {
        Code::PermissionDenied => {
            "give a token of the role worker, call the coordinator by an address that it allows, or give --cert and --key where it asks for a certificate"
        }
        Code::AlreadyExists => "give --name NAME",
        _ => SAME_VERSION,
    }
}

impl Session {
    pub(super) async fn take_registration(
        &mut self,
        sent: Moment,
        answer: Result<RegisterResponse, Status>,
    ) -> Result<(), WorkerError> {
        match answer {
            Ok(answer) => {
                let Ok(coordinator) = CoordinatorId::try_from(answer.coordinator_id) else {
                    let message = "it does not say which coordinator it is".to_owned();
                    return Err(WorkerError::Refused {
                        message,
                        help: SAME_VERSION,
                    });
                };
                self.speak_to(coordinator).await;
                self.remember(answer.session);
                self.current.set(answer.session);
                self.registered = true;
                self.loopback_only = answer.loopback_only;
                self.patient_until = None;
                self.refused_since = None;
                self.taken.end();
                self.renew(sent, answer.lease_ms);
                tracing::info!(name = %self.name, device = %self.platform.device_name, coordinator = %self.client.current_address(), "registered");
                self.hand_in();
                Ok(())
            }
            Err(status) => {
                self.judge(&status)?;
                self.again_later(&status);
                Ok(())
            }
        }
    }

    /// From now on `coordinator` is the one that answers.
    async fn speak_to(&mut self, coordinator: CoordinatorId) {
        if self.coordinator.as_ref() == Some(&coordinator) {
            return;
        }
        if let Some(attempt) = self.attempt.take() {
            self.leave(attempt, &coordinator).await;
        }
        // Nothing that spoke to the other one gets this one's session or lease.
        self.current = Current::default();
        self.leases = watch::channel(None).0;
        self.lease = None;
        self.kept.tell_others(&coordinator);
        self.coordinator = Some(coordinator);
    }

    /// Ends an attempt of another coordinator than `coordinator`, and keeps what it left for that
    /// one.
    async fn leave(&mut self, attempt: Attempt, coordinator: &CoordinatorId) {
        let theirs = attempt.whose.coordinator.clone();
        tracing::warn!(
            job = attempt.whose.job,
            "coordinator {coordinator} answers in the place of {theirs}, which gave the job: its attempt ends"
        );
        let reason =
            format!("coordinator {coordinator} answered the worker in the place of {theirs}");
        if let Some(left) = attempt.leave(reason).await {
            self.kept.add(left);
        }
    }

    /// Writes the session down before it is used: a start that does not know it waits for the lease
    /// of this one to end. A full disk costs that, and no work.
    fn remember(&self, session: u64) {
        let Some(coordinator) = &self.coordinator else {
            return;
        };
        if let Err(e) = self.sessions.keep(&self.name, coordinator, session) {
            tracing::warn!(
                "{} cannot be written: {e}; if this worker is killed, its next start waits until its lease has ended",
                self.sessions.path().display()
            );
        }
    }

    /// Delivers what an earlier attempt left for the coordinator that answers.
    fn hand_in(&mut self) {
        let left = self
            .coordinator
            .as_ref()
            .filter(|_| self.attempt.is_none())
            .and_then(|id| self.kept.take(id));
        if let Some(left) = left
            && let Some(contact) = self.contact()
        {
            tracing::info!(folder = %left.folder.display(), "delivering what an earlier attempt of this worker left");
            self.attempt = Some(Attempt::resume(contact, left));
        }
    }

    /// An error where trying to register again is of no use.
    fn judge(&mut self, status: &Status) -> Result<(), WorkerError> {
        let verdict = judge(status);
        let no_token = verdict == Verdict::Register;
        self.refused_since = no_token.then(|| self.refused_since.unwrap_or_else(Instant::now));
        let hopeless = self
            .refused_since
            .is_some_and(|since| since.elapsed() > PATIENCE);
        let impatient = self
            .patient_until
            .is_some_and(|until| until < Instant::now());
        let message = status.message().to_owned();
        match verdict {
            // A coordinator of this machine may be about to leave its token.
            Verdict::Register if self.client.may_find_token() && !hopeless => Ok(()),
            Verdict::Register => Err(WorkerError::Token {
                help: self.client.token_help(&message),
                message,
            }),
            Verdict::Over | Verdict::Refused => match self.taken.wait(status, Instant::now()) {
                // A coordinator that refuses is there.
                Some(true) => {
                    self.patient_until = None;
                    Ok(())
                }
                Some(false) => Err(WorkerError::Refused {
                    message,
                    help: ONE_EACH,
                }),
                None => Err(WorkerError::Refused {
                    message,
                    help: way_out(status.code()),
                }),
            },
            Verdict::Again if impatient => Err(self.no_connection(message)),
            Verdict::Again => Ok(()),
        }
    }

    /// Why the coordinator is not reached, which TLS knows better than the failed call.
    fn no_connection(&self, fault: String) -> WorkerError {
        let address = self.client.address.clone();
        match self.client.link_fault() {
            Some(fault) => WorkerError::Link { address, fault },
            None => WorkerError::Unreachable { address, fault },
        }
    }

    pub(super) fn register_request(&self) -> RegisterRequest {
        RegisterRequest {
            name: self.name.clone(),
            instance: self.identity.instance.clone(),
            platform: Some(self.platform.clone()),
            running_token: 0,
            held: self
                .attempt
                .iter()
                .map(Attempt::held)
                .chain(self.kept.held())
                .collect(),
            previous: self.sessions.of(&self.name),
        }
    }
}
