use std::process::ExitCode;

use clap::Args;
use qlora_proto::{Job, JobKind, SubmitRequest};

use super::local;
use super::rows::DataFile;
use super::source::{ConfigSource, Resolved};
use super::watch::watch;
use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::output::waiting::waiting_if_known;
use crate::output::{json, print, print_json};

/// Submit a configuration as a job.
///
/// Before anything is sent, every row is looked at as `data check` without --model does: a row with
/// findings is refused. Where the model is on this machine, its files are looked at too, and the
/// first rows are rendered by its template. The answer comes when the job is durable.
#[derive(Debug, Args)]
pub struct Submit {
    #[command(flatten)]
    source: ConfigSource,
    /// Follow the job until it ends.
    #[arg(long, short)]
    watch: bool,
    /// The same key gives the same job, however often it is submitted.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

impl Submit {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let resolved = self.source.resolve(context).await?;
        context.warn(resolved.config.warnings());
        let job = submit(context, &resolved, self.idempotency_key.clone()).await?;
        if self.watch {
            context.say(format!("{}   submitted", job.id));
            return watch(context, job.id, None).await;
        }
        if context.global.json {
            let (job, why) = waiting_if_known(context, &mut context.client()?, job).await;
            print_json(&json::job(&job, why.as_ref()))?;
        } else {
            print(job.id)?;
            context.say(format!("follow it with: qlora-ctl watch {}", job.id));
        }
        Ok(Exit::Done.into())
    }
}

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
