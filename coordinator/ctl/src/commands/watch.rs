use std::process::ExitCode;

use clap::Args;
use qlora_proto::numbers::whole;

use crate::arguments::job_number;
use crate::context::Context;
use crate::error::CtlError;
use crate::job::record::find;
use crate::job::watch::watch;

/// Follow a job until it ends.
///
/// Ctrl-C or SIGTERM detaches, with exit code 130, and leaves the job running.
#[derive(Debug, Args)]
pub struct Watch {
    /// Number of the job, as `jobs` lists it.
    #[arg(allow_negative_numbers = true, value_parser = job_number)]
    job: u64,
    /// Give up after so many seconds, with exit code 124.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = whole::<u64>("a number of seconds", 0..))]
    timeout: Option<u64>,
}

impl Watch {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        // A coordinator that does not answer now is told at once; only one that goes away later is
        // waited for.
        find(context, self.job).await?;
        watch(context, self.job, self.timeout).await
    }
}
