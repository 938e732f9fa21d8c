//! `qlora.v1.WorkerService`.

use std::sync::Arc;
use std::time::Duration;

use qlora_config::has_visible;
use qlora_engine as domain;
use qlora_engine::{Event, SessionId, Token, Wanted};
use qlora_proto::synchronize_response::Wanted as WireWanted;
use qlora_proto::worker_service_server::WorkerService;
use qlora_proto::*;
use qlora_store::{By, JobStore};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::{Services, or_by_user};
use crate::clock::now;
use crate::driver::{Handle, Records, Waiter};
use crate::error::CallError;
use crate::{caller, convert, names};

/// The longest that an answer is held; below every lease, so that holding renews it.
const LONGEST_HOLD: Duration = Duration::from_secs(20);

/// Letters of a worker's name; it stands in every list.
const LONGEST_NAME: usize = 128;

#[tonic::async_trait]
impl<S: JobStore> WorkerService for Services<S> {
    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let request = request.into_inner();
        if request.name.is_empty() || request.instance.is_empty() {
            return Err(Status::invalid_argument(
                "a worker has a name and an instance",
            ));
        }
        if request.name.chars().count() > LONGEST_NAME {
            return Err(Status::invalid_argument(format!(
                "a worker's name has {LONGEST_NAME} letters at the most"
            )));
        }
        if !has_visible(&request.name) {
            return Err(names::invisible("a worker's name").into());
        }
        let platform = request
            .platform
            .ok_or_else(|| Status::invalid_argument("the worker's platform is missing"))?;
        let own = request
            .held
            .iter()
            .find(|held| held.coordinator_id == self.driver.coordinator_id());
        let previous = request
            .previous
            .iter()
            .find(|given| given.coordinator_id == self.driver.coordinator_id());
        let event = Event::Register {
            name: request.name,
            instance: request.instance,
            previous: previous.map(|given| convert::session_in(given.session)),
            platform: Box::new(convert::platform_in(platform)?),
            running: convert::token_in(own.map_or(request.running_token, |held| held.token)),
        };
        let lease_ms = self.driver.limits().lease as u32;
        let answer = self.driver.event(event).await;
        let answer = answer.map_err(|refused| refused_registration(refused, lease_ms))?;
        let domain::Response::Registered { session } = answer else {
            return Err(Status::internal(
                "the engine gave another answer than a session",
            ));
        };
        Ok(Response::new(RegisterResponse {
            session: session.0,
            lease_ms,
            loopback_only: self.loopback_only,
            coordinator_id: self.driver.coordinator_id().to_owned(),
        }))
    }

    async fn synchronize(
        &self,
        request: Request<SynchronizeRequest>,
    ) -> Result<Response<SynchronizeResponse>, Status> {
        let caller = caller::of(request.extensions()).cloned();
        let request = request.into_inner();
        let session = convert::session_in(request.session);
        let lease_ms = self.driver.limits().lease as u32;
        let hold = Duration::from_millis(request.wait_ms.into())
            .min(LONGEST_HOLD)
            .min(Duration::from_millis(u64::from(lease_ms) / 2));
        let until = Instant::now() + hold;
        let stale = CallError::Refused(domain::Refusal::StaleSession(session));
        let waiter = self.driver.waiter(session).ok_or(stale)?;
        let call = waiter.begin();
        let mut left = Left {
            driver: self.driver.clone(),
            session,
            waiter: waiter.clone(),
            call,
            armed: true,
        };
        loop {
            let woken = waiter.woken.notified();
            // A token that ended while the call was held gets no work.
            if let Some(caller) = &caller {
                caller.check().map_err(CallError::Denied)?;
            }
            let wanted = self.sync_once(session, &request).await?;
            let quiet = matches!(wanted, Wanted::Nothing | Wanted::GoOn);
            if quiet && tokio::time::timeout_at(until, woken).await.is_ok() {
                continue;
            }
            left.armed = false;
            return Ok(Response::new(self.answer(session, wanted, lease_ms).await?));
        }
    }

    async fn report(
        &self,
        request: Request<ReportRequest>,
    ) -> Result<Response<ReportResponse>, Status> {
        let request = request.into_inner();
        let (session, token) = (convert::session_in(request.session), Token(request.token));
        let points = request.metrics.into_iter().map(convert::metric_in);
        let lines = request.logs.into_iter();
        let records = Records {
            points: points.collect(),
            lines: lines.map(|line| convert::log_in(line, token)).collect(),
        };
        let progress = request.progress.map(|p| Box::new(convert::progress_in(p)));
        let taken = self
            .driver
            .event_with(
                Event::Report {
                    session,
                    token,
                    batch: request.batch,
                    progress,
                },
                records,
            )
            .await?;
        let gather = match taken {
            domain::Response::Batch { gather, .. } => gather,
            _ => 0,
        };
        Ok(Response::new(ReportResponse {
            gather_ms: u32::try_from(gather).unwrap_or(u32::MAX),
        }))
    }

    async fn commit_artifact(
        &self,
        request: Request<CommitArtifactRequest>,
    ) -> Result<Response<CommitArtifactResponse>, Status> {
        let request = request.into_inner();
        let artifact = convert::artifact_in(
            request
                .artifact
                .ok_or_else(|| Status::invalid_argument("the artifact is missing"))?,
        )?;
        let (session, token) = (convert::session_in(request.session), Token(request.token));
        self.job_of(session, token).await?;
        let digest = artifact.digest.parse().map_err(CallError::Digest)?;
        let missing =
            || Status::failed_precondition(format!("artifact {digest} has not been uploaded"));
        // From the look until it is durable that the job has it, whether or not the worker waits. It
        // has sent it or was told of it, and nobody else is told by this: checkpoints go as soon as
        // newer ones come.
        let claim = self.artifacts.claim(&digest).ok_or_else(missing)?;
        let stat = self
            .artifacts
            .look(&digest)
            .await
            .map_err(CallError::from)?;
        if !stat.complete {
            return Err(missing());
        }
        if stat.size != artifact.size {
            return Err(Status::invalid_argument(format!(
                "artifact {digest} has {} bytes, not {}",
                stat.size, artifact.size
            )));
        }
        let driver = self.driver.clone();
        let committing = tokio::spawn(async move {
            let _claim = claim;
            let commit = Event::Commit {
                session,
                token,
                artifact,
            };
            driver.event(commit).await
        });
        committing.await.map_err(|_| CallError::Stopping)??;
        Ok(Response::new(CommitArtifactResponse {}))
    }

    async fn finish(
        &self,
        request: Request<FinishRequest>,
    ) -> Result<Response<FinishResponse>, Status> {
        let request = request.into_inner();
        let outcome = convert::outcome_in(request.outcome())?;
        let (session, token) = (convert::session_in(request.session), Token(request.token));
        let code = convert::code_in(request.code)?;
        let event = Event::Finish {
            session,
            token,
            outcome,
            message: request.message,
            code,
        };
        self.driver.event(event).await?;
        Ok(Response::new(FinishResponse {}))
    }

    async fn rendezvous(
        &self,
        request: Request<RendezvousRequest>,
    ) -> Result<Response<RendezvousResponse>, Status> {
        let request = request.into_inner();
        let (session, token) = (convert::session_in(request.session), Token(request.token));
        let until =
            Instant::now() + Duration::from_millis(request.wait_ms.into()).min(LONGEST_HOLD);
        let job = self.job_of(session, token).await?;
        let mut changes = self.driver.watch(job);
        if let Some(offer) = request.offer {
            self.driver
                .event(Event::Offer {
                    session,
                    token,
                    rendezvous: convert::rendezvous_in(offer)?,
                })
                .await?;
        }
        loop {
            let rendezvous = self.rendezvous(session, token).await?;
            // Whatever changes may be the rendezvous; a receiver that lags has missed changes, so it
            // looks too.
            if rendezvous.is_some()
                || tokio::time::timeout_at(until, changes.changed())
                    .await
                    .is_err()
            {
                let offer = rendezvous.map(convert::rendezvous);
                return Ok(Response::new(RendezvousResponse { offer }));
            }
        }
    }

    async fn remove_worker(
        &self,
        request: Request<RemoveWorkerRequest>,
    ) -> Result<Response<RemoveWorkerResponse>, Status> {
        let by = caller::by(request.extensions(), "worker removal");
        let name = request.into_inner().name;
        self.driver
            .event_by(Event::RemoveWorker { name }, by)
            .await?;
        Ok(Response::new(RemoveWorkerResponse {}))
    }

    async fn list_workers(
        &self,
        _: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        let answer = self.driver.read(|engine| ListWorkersResponse {
            workers: convert::workers(engine),
            queue_drained: engine.queue_drain().map(convert::drain),
        });
        Ok(Response::new(answer.await?))
    }

    async fn drain_worker(
        &self,
        request: Request<DrainWorkerRequest>,
    ) -> Result<Response<WorkerInfo>, Status> {
        let by = caller::by(request.extensions(), "drain");
        let DrainWorkerRequest { name, reason, now } = request.into_inner();
        let event = Event::Drain {
            worker: name.clone(),
            reason: or_by_user(reason),
            at_once: now,
        };
        Ok(self.change_worker(name, by, event).await?)
    }

    async fn undrain_worker(
        &self,
        request: Request<UndrainWorkerRequest>,
    ) -> Result<Response<WorkerInfo>, Status> {
        let by = caller::by(request.extensions(), "undrain");
        let name = request.into_inner().name;
        let worker = name.clone();
        let event = Event::Undrain { worker };
        Ok(self.change_worker(name, by, event).await?)
    }

    async fn drain_queue(
        &self,
        request: Request<DrainQueueRequest>,
    ) -> Result<Response<DrainQueueResponse>, Status> {
        let by = caller::by(request.extensions(), "drain of the queue");
        let reason = or_by_user(request.into_inner().reason);
        let event = Event::DrainQueue { reason };
        self.driver.event_by(event, by).await?;
        let answer = self.driver.read(|engine| {
            let runs = |job: &&domain::Job| job.current_token().is_some();
            DrainQueueResponse {
                drained: engine.queue_drain().map(convert::drain),
                running: engine.jobs().filter(runs).count() as u64,
            }
        });
        Ok(Response::new(answer.await?))
    }

    async fn undrain_queue(
        &self,
        request: Request<UndrainQueueRequest>,
    ) -> Result<Response<UndrainQueueResponse>, Status> {
        let by = caller::by(request.extensions(), "undrain of the queue");
        self.driver.event_by(Event::UndrainQueue, by).await?;
        Ok(Response::new(UndrainQueueResponse {}))
    }
}

/// Says of a refusal that ends with another worker's lease that it does.
fn refused_registration(refused: CallError, lease_ms: u32) -> Status {
    let passes = matches!(
        refused,
        CallError::Refused(domain::Refusal::IdentityTaken { .. })
    );
    let mut status = Status::from(refused);
    if passes {
        status.metadata_mut().insert(PASSES_AFTER, lease_ms.into());
    }
    status
}

/// Tells the engine when a worker's connection breaks while its answer is held. A worker that has
/// called again meanwhile is still there: it gives up one call for the next when its attempt ends.
struct Left {
    driver: Handle,
    session: SessionId,
    waiter: Arc<Waiter>,
    call: u64,
    armed: bool,
}

impl Drop for Left {
    fn drop(&mut self) {
        if self.armed && self.waiter.is_last(self.call) {
            self.driver.tell(Event::Leave {
                session: self.session,
            });
        }
    }
}

impl<S: JobStore> Services<S> {
    /// The worker `name` after `event`, which changes it.
    async fn change_worker(
        &self,
        name: String,
        by: Option<By>,
        event: Event,
    ) -> Result<Response<WorkerInfo>, CallError> {
        self.driver.event_by(event, by).await?;
        let workers = self.driver.read(convert::workers).await?;
        // One that was known by its drain alone is not listed once it is undrained.
        let found = workers.into_iter().find(|worker| worker.name == name);
        Ok(Response::new(found.unwrap_or_else(|| WorkerInfo {
            name,
            ..WorkerInfo::default()
        })))
    }

    /// The job of the attempt `token`, in which the worker of `session` takes part.
    pub(super) async fn job_of(
        &self,
        session: SessionId,
        token: Token,
    ) -> Result<domain::JobId, CallError> {
        let found = self.driver.read(move |engine| {
            engine.rank_of((session, token))?;
            engine
                .job_of(token)
                .ok_or(domain::Refusal::StaleToken(token))
        });
        Ok(found.await??)
    }

    async fn rendezvous(
        &self,
        session: SessionId,
        token: Token,
    ) -> Result<Option<domain::Rendezvous>, CallError> {
        let id = self.job_of(session, token).await?;
        let found = self
            .driver
            .read(move |engine| Some(engine.job(id)?.attempt(token)?.rendezvous.clone()));
        found
            .await?
            .ok_or(CallError::Refused(domain::Refusal::StaleToken(token)))
    }

    async fn sync_once(
        &self,
        session: SessionId,
        request: &SynchronizeRequest,
    ) -> Result<Wanted, CallError> {
        let models = request.models.clone();
        let event = Event::Synchronize {
            session,
            running: convert::token_in(request.running_token),
            memory_free: request.device_memory_free,
            disk_free: request.disk_free,
            models: models.map(|models| convert::models_in(models.names)),
            draining: request.draining,
        };
        match self.driver.event(event).await? {
            domain::Response::Wanted(wanted) => Ok(wanted),
            _ => Err(CallError::Stopping),
        }
    }

    async fn answer(
        &self,
        session: SessionId,
        wanted: Wanted,
        lease_ms: u32,
    ) -> Result<SynchronizeResponse, CallError> {
        let wanted = match wanted {
            Wanted::Nothing => WireWanted::Nothing(Nothing {}),
            Wanted::GoOn => WireWanted::GoOn(Nothing {}),
            Wanted::Stop {
                reason,
                at_once,
                resumes,
            } => WireWanted::Stop(Stop {
                reason,
                at_once,
                resumes,
            }),
            Wanted::Run { job, token } => {
                WireWanted::Run(self.assignment(session, job, token).await?)
            }
        };
        Ok(SynchronizeResponse {
            wanted: Some(wanted),
            lease_ms,
        })
    }

    async fn assignment(
        &self,
        session: SessionId,
        id: domain::JobId,
        token: Token,
    ) -> Result<Assignment, CallError> {
        let found = self.driver.read(move |engine| {
            let job = engine.job(id)?;
            let attempt = job.attempt(token)?;
            let worker = engine.worker_of(session)?;
            let kind = convert::kind(job.spec.kind);
            let assignment = Assignment {
                job: id.0,
                token: token.0,
                kind: kind.into(),
                config_json: job.spec.config_json.clone(),
                files: job.spec.files.iter().map(convert::file).collect(),
                checkpoint: job.checkpoint().map(convert::artifact),
                traceparent: job.spec.traceparent.clone(),
                rank: attempt.rank(&worker.name)?,
                size: attempt.size(),
                attempt: job.attempt_number(token)?,
            };
            Some((assignment, job.attempts.len(), job.created))
        });
        let (assignment, attempts, created) = found
            .await?
            .ok_or(CallError::Refused(domain::Refusal::StaleToken(token)))?;
        if attempts == 1 && assignment.rank == 0 {
            self.instruments
                .submit_to_start
                .record(now().wall.0.saturating_sub(created.0) as f64 / 1000.0, &[]);
        }
        Ok(assignment)
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn only_a_refusal_that_ends_with_a_lease_says_when_it_passes() {
        let name = || "a".to_owned();
        for (refusal, passes) in [
            (
                domain::Refusal::IdentityTaken { name: name() },
                Some("30000"),
            ),
            (domain::Refusal::NameTaken { name: name() }, None),
        ] {
            let status = refused_registration(refusal.into(), 30_000);
            assert_eq!(status.code(), Code::AlreadyExists);
            let told = status.metadata().get(PASSES_AFTER);
            assert_eq!(told.and_then(|value| value.to_str().ok()), passes);
        }
    }
}
