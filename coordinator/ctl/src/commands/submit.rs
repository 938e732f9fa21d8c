use std::process::ExitCode;

use clap::Args;

use crate::context::Context;
use crate::error::CtlError;
use crate::input::source::ConfigSource;
use crate::job::submit::{show, submit};

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
        show(context, job, self.watch).await
    }
}
