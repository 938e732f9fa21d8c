//! `qlora.v1.JobService`.

use std::str::FromStr;

use qlora_config::{LONGEST_NAME, ResolvedConfig, has_visible};
use qlora_engine as domain;
use qlora_engine::Event;
use qlora_proto::job_service_server::JobService;
use qlora_proto::*;
use qlora_store::{By, Digest256, JobQuery, JobStore, LogRecord, StoreError};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};
use tracing::Instrument;

use super::explain;
use super::prune::asked;
use super::{Services, Streaming, or_by_user, streaming};
use crate::clock::now;
use crate::error::CallError;
use crate::needs::needs;
use crate::runnable::runnable;
use crate::{caller, convert, names};

/// Log lines that are read at one time.
const PAGE: u32 = 500;

/// Jobs that one job comes after, at the most.
const MOST_AFTER: usize = 256;

/// Characters of a file's name, at the most.
const LONGEST_FILE_NAME: usize = 1_000;

#[tonic::async_trait]
impl<S: JobStore> JobService for Services<S> {
    type WatchStream = Streaming<Job>;
    type StreamLogsStream = Streaming<LogLine>;
    type PruneStream = Streaming<PrunedJob>;

    async fn submit(
        &self,
        request: Request<SubmitRequest>,
    ) -> Result<Response<SubmitResponse>, Status> {
        let span = tracing::info_span!("submit", job = tracing::field::Empty);
        let by = caller::by(request.extensions(), "submit");
        qlora_telemetry::set_parent(&span, request.metadata());
        async {
            let request = request.into_inner();
            let after = after(&request)?;
            let spec = domain::JobSpec {
                owner: owner(by.as_ref()),
                after,
                ..self.spec(request).await?
            };
            let spec = Box::new(spec);
            self.submitted(Event::Submit { spec }, by).await
        }
        .instrument(span)
        .await
    }

    async fn get_job(&self, request: Request<GetJobRequest>) -> Result<Response<Job>, Status> {
        Ok(Response::new(self.job(request.into_inner().id).await?))
    }

    async fn list_jobs(
        &self,
        request: Request<ListJobsRequest>,
    ) -> Result<Response<ListJobsResponse>, Status> {
        let request = request.into_inner();
        let limit = if request.limit == 0 {
            100
        } else {
            request.limit.min(1000)
        };
        let before = if request.before == 0 {
            u64::MAX
        } else {
            request.before
        };
        let states = (!request.states.is_empty()).then(|| convert::states_in(&request.states));
        let query = JobQuery {
            states,
            before: convert::job_in(before),
            limit,
        };
        let page = self.store.jobs(&query).await.map_err(CallError::from)?;
        let usage = self.instruments.disk.usage().await;
        Ok(Response::new(ListJobsResponse {
            jobs: page.jobs.iter().map(convert::job).collect(),
            next: page.next.map_or(0, |next| next.0),
            usage: usage.map(|usage| StoreUsage {
                database_bytes: usage.database,
                artifact_bytes: usage.artifacts,
            }),
        }))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<Response<Job>, Status> {
        let by = caller::by(request.extensions(), "cancel");
        let CancelRequest { id, reason } = request.into_inner();
        let job = convert::job_in(id);
        let reason = or_by_user(reason);
        Ok(self.change(id, by, Event::Cancel { job, reason }).await?)
    }

    async fn pause(&self, request: Request<PauseRequest>) -> Result<Response<Job>, Status> {
        let by = caller::by(request.extensions(), "pause");
        let PauseRequest { id, reason } = request.into_inner();
        let job = convert::job_in(id);
        let reason = or_by_user(reason);
        Ok(self.change(id, by, Event::Pause { job, reason }).await?)
    }

    async fn resume(&self, request: Request<ResumeRequest>) -> Result<Response<Job>, Status> {
        let by = caller::by(request.extensions(), "resume");
        let ResumeRequest { id, from_step } = request.into_inner();
        let (job, from) = (convert::job_in(id), from_step);
        Ok(self.change(id, by, Event::Resume { job, from }).await?)
    }

    async fn retry(
        &self,
        request: Request<RetryRequest>,
    ) -> Result<Response<SubmitResponse>, Status> {
        let by = caller::by(request.extensions(), "retry");
        let RetryRequest {
            id,
            from_start,
            idempotency_key,
        } = request.into_inner();
        self.job(id).await?;
        let event = Event::Retry {
            job: convert::job_in(id),
            from_start,
            idempotency_key: Some(idempotency_key).filter(|key| !key.is_empty()),
            owner: owner(by.as_ref()),
        };
        self.submitted(event, by).await
    }

    async fn remove(
        &self,
        request: Request<RemoveRequest>,
    ) -> Result<Response<RemoveResponse>, Status> {
        let by = caller::by(request.extensions(), "rm");
        let id = request.into_inner().id;
        self.job(id).await?;
        let job = convert::job_in(id);
        self.driver.event_by(Event::RemoveJob { job }, by).await?;
        Ok(Response::new(RemoveResponse {}))
    }

    async fn prune(
        &self,
        request: Request<PruneRequest>,
    ) -> Result<Response<Self::PruneStream>, Status> {
        let by = caller::by(request.extensions(), "prune");
        let request = request.into_inner();
        let dry_run = request.dry_run;
        let asked = asked(request)?;
        let (sender, receiver) = mpsc::channel(16);
        let services = self.clone();
        tokio::spawn(async move {
            if let Err(e) = services.prune_each(asked, dry_run, by, &sender).await {
                drop(sender.send(Err(e.into())).await);
            }
        });
        Ok(streaming(receiver))
    }

    async fn explain(
        &self,
        request: Request<ExplainRequest>,
    ) -> Result<Response<ExplainResponse>, Status> {
        let id = convert::job_in(request.into_inner().id);
        let at_hand = self
            .driver
            .read(move |engine| engine.job(id).map(|job| explain(engine, job, now())))
            .await?;
        if let Some(answer) = at_hand {
            return Ok(Response::new(answer));
        }
        let job = self.stored(id).await?;
        let answer = self
            .driver
            .read(move |engine| explain(engine, &job, now()))
            .await?;
        Ok(Response::new(answer))
    }

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let id = request.into_inner().id;
        let mut changes = self.driver.watch(convert::job_in(id));
        let mut job = self.job(id).await?;
        let (sender, receiver) = mpsc::channel(16);
        let services = self.clone();
        tokio::spawn(async move {
            loop {
                let ended = job.state().is_final();
                if sender.send(Ok(job)).await.is_err() || ended {
                    return;
                }
                job = match changes.changed().await {
                    Ok(changed) => convert::job(&changed),
                    // Too slow for every change: the newest state is what counts.
                    Err(RecvError::Lagged(_)) => match services.job(id).await {
                        Ok(job) => job,
                        Err(_) => return,
                    },
                    Err(RecvError::Closed) => return,
                };
            }
        });
        Ok(streaming(receiver))
    }

    async fn get_metrics(
        &self,
        request: Request<GetMetricsRequest>,
    ) -> Result<Response<GetMetricsResponse>, Status> {
        let request = request.into_inner();
        self.job(request.id).await?;
        let limit = if request.limit == 0 {
            10_000
        } else {
            request.limit.min(100_000)
        };
        let points = self
            .store
            .metrics(convert::job_in(request.id), request.after, limit)
            .await
            .map_err(CallError::from)?;
        Ok(Response::new(GetMetricsResponse {
            points: points.into_iter().map(convert::metric).collect(),
        }))
    }

    async fn stream_logs(
        &self,
        request: Request<StreamLogsRequest>,
    ) -> Result<Response<Self::StreamLogsStream>, Status> {
        let StreamLogsRequest {
            id,
            mut after,
            follow,
        } = request.into_inner();
        let mut changes = self.driver.watch(convert::job_in(id));
        self.job(id).await?;
        let (sender, receiver) = mpsc::channel(64);
        let services = self.clone();
        tokio::spawn(async move {
            loop {
                let (job, lines) = match services.lines(id, after).await {
                    Ok(read) => read,
                    // An end without a word would look as if there were no more.
                    Err(e) => return drop(sender.send(Err(e.into())).await),
                };
                let full = lines.len() == PAGE as usize;
                for line in lines {
                    after = line.seq;
                    if sender.send(Ok(line)).await.is_err() {
                        return;
                    }
                }
                if full {
                    continue;
                }
                if !follow || job.state().is_final() {
                    return;
                }
                // One that lags has missed changes, so it looks too.
                if let Err(RecvError::Closed) = changes.changed().await {
                    return;
                }
            }
        });
        Ok(streaming(receiver))
    }
}

/// Lines of the log of `job`, with the numbers of its attempts.
fn numbered(job: &domain::Job, lines: Vec<LogRecord>) -> Vec<LogLine> {
    lines.into_iter().map(|l| convert::log(job, l)).collect()
}

/// Whose job it is that somebody submits.
fn owner(by: Option<&By>) -> String {
    by.map(|by| by.who.clone()).unwrap_or_default()
}

/// Jobs that a submission comes after.
fn after(request: &SubmitRequest) -> Result<domain::After, CallError> {
    if request.after.len() > MOST_AFTER {
        return Err(CallError::Invalid(format!(
            "a job comes after {MOST_AFTER} others at the most, not after {}",
            request.after.len()
        )));
    }
    let mut jobs: Vec<_> = request
        .after
        .iter()
        .map(|id| convert::job_in(*id))
        .collect();
    jobs.sort_unstable();
    jobs.dedup();
    let any = request.after_any && !jobs.is_empty();
    Ok(domain::After { jobs, any })
}

impl<S: JobStore> Services<S> {
    /// The job `id` after `event`, which changes it.
    async fn change(
        &self,
        id: u64,
        by: Option<By>,
        event: Event,
    ) -> Result<Response<Job>, CallError> {
        // A job whose record cannot be read is there, and the engine does not know it: this read
        // tells why.
        self.job(id).await?;
        self.driver.event_by(event, by).await?;
        Ok(Response::new(self.job(id).await?))
    }

    /// The job that `event` submits.
    async fn submitted(
        &self,
        event: Event,
        by: Option<By>,
    ) -> Result<Response<SubmitResponse>, Status> {
        let domain::Response::Submitted { job, created } = self.driver.event_by(event, by).await?
        else {
            return Err(Status::internal(
                "the engine gave another answer than a submission",
            ));
        };
        tracing::Span::current().record("job", job.0);
        Ok(Response::new(SubmitResponse {
            job: Some(self.job(job.0).await?),
            created,
        }))
    }

    pub(crate) async fn job(&self, id: u64) -> Result<Job, CallError> {
        let id = convert::job_in(id);
        let found = self
            .driver
            .read(move |engine| engine.job(id).map(convert::job))
            .await?;
        match found {
            Some(job) => Ok(job),
            None => Ok(convert::job(&self.stored(id).await?)),
        }
    }

    /// The job `id`, which the engine does not have at hand, from the store.
    async fn stored(&self, id: domain::JobId) -> Result<domain::Job, CallError> {
        if let Some(fault) = self.driver.unreadable(id) {
            return Err(CallError::Unreadable { job: id, fault });
        }
        match self.store.job(id).await {
            Ok(Some(job)) => Ok(job),
            Ok(None) => Err(CallError::Refused(domain::Refusal::UnknownJob(id))),
            Err(StoreError::Unreadable { fault, .. }) => {
                Err(CallError::Unreadable { job: id, fault })
            }
            Err(fault) => Err(fault.into()),
        }
    }

    /// A job, and the lines of its log after number `after`.
    async fn lines(&self, id: u64, after: u64) -> Result<(Job, Vec<LogLine>), CallError> {
        let job = self.job(id).await?;
        let id = convert::job_in(id);
        // Read after the state: what was written before the end is then complete. The attempts are
        // read after the lines: the job then has those of all of them.
        let lines = self.store.logs(id, after, PAGE).await?;
        let read = self.driver.read(move |engine| match engine.job(id) {
            Some(job) => Ok(numbered(job, lines)),
            None => Err(lines),
        });
        let lines = match read.await? {
            Ok(lines) => lines,
            Err(lines) => numbered(&self.stored(id).await?, lines),
        };
        Ok((job, lines))
    }

    /// Checks a submission and works out what it needs; who submits it, and after which jobs it
    /// comes, is the caller's to add.
    async fn spec(&self, request: SubmitRequest) -> Result<domain::JobSpec, CallError> {
        let idempotency_key = Some(request.idempotency_key.clone()).filter(|key| !key.is_empty());
        let traceparent = qlora_telemetry::current_traceparent();
        if request.name.chars().count() > LONGEST_NAME {
            return Err(CallError::Invalid(format!(
                "a job's name has {LONGEST_NAME} characters at the most"
            )));
        }
        if !(request.name.is_empty() || has_visible(&request.name)) {
            return Err(names::invisible("a job's name"));
        }
        match request.kind() {
            JobKind::Noop => Ok(domain::JobSpec {
                idempotency_key,
                traceparent,
                ..domain::JobSpec::noop(request.name)
            }),
            kind @ (JobKind::Train | JobKind::Eval) => {
                let (kind, role) = match kind {
                    JobKind::Eval => (domain::JobKind::Eval, FileRole::Eval),
                    _ => (domain::JobKind::Train, FileRole::Train),
                };
                let resolved = ResolvedConfig::from_json(&request.config_json)
                    .map_err(|e| CallError::Invalid(e.to_string()))?;
                let config = resolved.config();
                runnable(config).map_err(|e| CallError::Invalid(e.to_string()))?;
                let files = self.files(request.files, role).await?;
                let mut needs = needs(&resolved);
                if kind == domain::JobKind::Eval {
                    needs.workers = 1;
                }
                let name = [
                    request.name,
                    config.name.clone().unwrap_or_default(),
                    "unnamed".into(),
                ];
                Ok(domain::JobSpec {
                    kind,
                    name: name.into_iter().find(|n| !n.is_empty()).unwrap_or_default(),
                    config_json: resolved.json().to_owned(),
                    config_hash: resolved.hash().to_owned(),
                    files,
                    needs,
                    max_retries: config.resources.max_retries,
                    time_limit: config
                        .resources
                        .max_minutes
                        .map(|minutes| minutes.saturating_mul(60_000)),
                    checkpoints_to_keep: config.training.checkpoints_to_keep,
                    priority: config.resources.priority.unwrap_or_default(),
                    retry_of: None,
                    from_start: false,
                    owner: String::new(),
                    after: domain::After::default(),
                    idempotency_key,
                    traceparent,
                })
            }
            JobKind::Unspecified => {
                Err(CallError::Invalid("the kind of the job is missing".into()))
            }
        }
    }

    /// A job is taken only when its files are here, one of `role` among them.
    async fn files(
        &self,
        files: Vec<JobFile>,
        role: FileRole,
    ) -> Result<Vec<domain::File>, CallError> {
        let files = files
            .into_iter()
            .map(convert::file_in)
            .collect::<Result<Vec<_>, _>>()?;
        if !files.iter().any(|f| names::role(f.role) == role) {
            return Err(CallError::Invalid(format!(
                "the job has no file with the role {role}"
            )));
        }
        for (i, file) in files.iter().enumerate() {
            if files[..i].iter().any(|other| other.role == file.role) {
                return Err(CallError::Invalid(format!(
                    "the job has two files with the role {}",
                    names::role(file.role)
                )));
            }
            if file.name.chars().count() > LONGEST_FILE_NAME
                || file.name.chars().any(char::is_control)
                || !(file.name.is_empty() || has_visible(&file.name))
            {
                let fault = format!(
                    "the file with the role {} has a name that is too long or not printable",
                    names::role(file.role)
                );
                return Err(CallError::Invalid(fault));
            }
            let stat = self
                .artifacts
                .stat(&Digest256::from_str(&file.digest)?)
                .await?;
            if stat.damaged {
                return Err(CallError::Invalid(format!(
                    "{} is damaged in the artifact store, upload it again (digest {})",
                    file.name, file.digest
                )));
            }
            if !stat.complete {
                return Err(CallError::Invalid(format!(
                    "{} has not been uploaded (digest {})",
                    file.name, file.digest
                )));
            }
            // Retention counts what jobs say of their files.
            if stat.size != file.size {
                return Err(CallError::Invalid(format!(
                    "{} has {} bytes, not {} (digest {})",
                    file.name, stat.size, file.size, file.digest
                )));
            }
        }
        Ok(files)
    }
}
