use std::process::ExitCode;

use clap::Args;

use crate::arguments::{job_number, key};
use crate::context::Context;
use crate::error::CtlError;
use crate::input::source::ConfigSource;
use crate::job::submit::{Terms, show, submit};

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
    #[arg(long, value_name = "KEY", value_parser = key)]
    idempotency_key: Option<String>,
    /// Start only once these jobs have succeeded; where one fails or is cancelled, the new job is
    /// cancelled. Several are separated by commas.
    #[arg(long, value_name = "JOB", value_delimiter = ',', allow_negative_numbers = true, value_parser = job_number)]
    after: Vec<u64>,
    /// Jobs of --after only have to end.
    #[arg(long, requires = "after")]
    after_any: bool,
}

impl Submit {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let resolved = self.source.resolve(context).await?;
        context.warn(resolved.config.warnings());
        let terms = Terms {
            idempotency_key: self.idempotency_key.clone(),
            after: self.after.clone(),
            after_any: self.after_any,
        };
        let job = submit(context, &resolved, terms).await?;
        show(context, job, self.watch).await
    }
}
