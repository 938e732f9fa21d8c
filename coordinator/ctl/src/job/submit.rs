//! A job on its way to the coordinator: its files first, then the request.

use qlora_proto::{Job, JobKind, SubmitRequest};

use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::input::local;
use crate::input::resolved::Resolved;
use crate::input::rows::DataFile;

/// Uploads the data and submits.
#[tracing::instrument(name = "submit", skip_all)]
pub async fn submit(
    context: &Context,
    resolved: &Resolved,
    key: Option<String>,
) -> Result<Job, CtlError> {
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
        idempotency_key: key.unwrap_or_default(),
    };
    send(context, request).await
}

/// Submits a job whose files are with the coordinator.
pub async fn send(context: &Context, request: SubmitRequest) -> Result<Job, CtlError> {
    let answer = context
        .client()?
        .jobs
        .submit(request)
        .await
        .map_err(context.fault())?
        .into_inner();
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
