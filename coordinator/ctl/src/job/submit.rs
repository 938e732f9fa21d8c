//! A job on its way to the coordinator: its files first, then the request.

use std::process::ExitCode;

use qlora_client::retry::passes_after;
use qlora_proto::{Job, JobKind, SubmitRequest, SubmitResponse};
use tonic::{Code, Status};

use super::waiting::waiting_if_known;
use super::watch::watch;
use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::input::local;
use crate::input::resolved::Resolved;
use crate::input::rows::DataFile;
use crate::output::{json, print, print_json};

/// What a submission says beside its configuration and data.
#[derive(Debug, Default)]
pub struct Terms {
    pub idempotency_key: Option<String>,
    /// Jobs that have to succeed first, or with `after_any` only to end.
    pub after: Vec<u64>,
    pub after_any: bool,
}

/// Uploads the data and submits.
#[tracing::instrument(name = "submit", skip_all)]
pub async fn submit(context: &Context, resolved: &Resolved, terms: Terms) -> Result<Job, CtlError> {
    let config = resolved.config.config();
    let files = resolved.inputs()?;
    let ruler = local::look(context, resolved).await?;
    let paths = files.clone();
    let files: Vec<DataFile> = files
        .iter()
        .map(|(role, path)| DataFile::open(context, *role, path))
        .collect::<Result<_, _>>()?;
    if let Some(ruler) = &ruler {
        paths
            .iter()
            .try_for_each(|(_, path)| local::render(ruler, path, config.data.too_long))?;
    }
    for data in &files {
        data.upload(context).await?;
    }
    let request = SubmitRequest {
        kind: JobKind::Train.into(),
        name: config.name.clone().unwrap_or_default(),
        config_json: resolved.config.json().to_owned(),
        files: files.iter().map(|data| data.file.clone()).collect(),
        idempotency_key: terms.idempotency_key.unwrap_or_default(),
        after: terms.after,
        after_any: terms.after_any,
    };
    send(context, request).await
}

/// Submits a job whose files are with the coordinator.
pub async fn send(context: &Context, request: SubmitRequest) -> Result<Job, CtlError> {
    let answer = context.client().await?.jobs.submit(request).await;
    let answer = answer.map_err(|status| fault(context, status))?;
    answered(context, answer.into_inner())
}

/// The error of a submission. A user who has as many waiting jobs as the coordinator allows is
/// refused: that is no trouble of the coordinator's.
pub fn fault(context: &Context, status: Status) -> CtlError {
    match status.code() {
        Code::ResourceExhausted if passes_after(&status).is_none() => CtlError::Refused {
            message: status.message().to_owned(),
            help: "",
            exit: Exit::Refused,
        },
        _ => context.fault()(status),
    }
}

/// Shows a job that was submitted: its number, or how it goes on where `follows` is set.
pub async fn show(context: &Context, job: Job, follows: bool) -> Result<ExitCode, CtlError> {
    if follows {
        context.say(format!("{}   submitted", job.id));
        return watch(context, job.id, None).await;
    }
    if context.global.json {
        let (job, why) = waiting_if_known(context, &mut context.client().await?, job).await;
        print_json(&json::job(&job, why.as_ref()))?;
    } else {
        print(job.id)?;
        context.say(format!("follow it with: qlora-ctl watch {}", job.id));
    }
    Ok(Exit::Done.into())
}

/// The job of an answer; says so where it is not a new one.
pub fn answered(context: &Context, answer: SubmitResponse) -> Result<Job, CtlError> {
    let job = answer.job.ok_or_else(|| CtlError::Refused {
        message: "the coordinator gave no job".into(),
        help: "",
        exit: Exit::Refused,
    })?;
    if !answer.created {
        let state = job.state().word();
        context.say(format!(
            "job {} was already submitted with this key (it is {state}); nothing new was started",
            job.id
        ));
    }
    Ok(job)
}
