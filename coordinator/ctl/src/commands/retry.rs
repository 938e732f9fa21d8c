use std::process::ExitCode;

use clap::Args;
use qlora_proto::RetryRequest;

use crate::arguments::{job_number, key};
use crate::context::Context;
use crate::error::CtlError;
use crate::job::submit::{answered, fault, show};

/// Do an ended job once more, as a new job.
///
/// The new job has the same configuration and files, and begins with the newest checkpoint of the
/// old one. The answer comes when it is durable.
#[derive(Debug, Args)]
pub struct Retry {
    /// Number of the job, as `jobs` lists it.
    #[arg(allow_negative_numbers = true, value_parser = job_number)]
    job: u64,
    /// Begin anew, and not with the newest checkpoint.
    #[arg(long)]
    from_start: bool,
    /// Follow the new job until it ends.
    #[arg(long, short)]
    watch: bool,
    /// The same key gives the same job, however often it is asked for.
    #[arg(long, value_name = "KEY", value_parser = key)]
    idempotency_key: Option<String>,
}

impl Retry {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let request = RetryRequest {
            id: self.job,
            from_start: self.from_start,
            idempotency_key: self.idempotency_key.clone().unwrap_or_default(),
        };
        let answer = context.client().await?.jobs.retry(request).await;
        let answer = answer.map_err(|status| fault(context, status))?;
        let job = answered(context, answer.into_inner())?;
        show(context, job, self.watch).await
    }
}
