use std::process::ExitCode;

use clap::Args;
use qlora_proto::{CancelRequest, Job};

use crate::arguments::job_number;
use crate::context::Context;
use crate::each::each;
use crate::error::{CtlError, Exit};
use crate::job::confirm::{confirmed, jobs};

/// Stop jobs; what they have saved stays.
///
/// A running attempt saves a checkpoint first.
#[derive(Debug, Args)]
pub struct Cancel {
    /// Numbers of the jobs, as `jobs` lists them.
    #[arg(allow_negative_numbers = true, value_parser = job_number, required = true, value_name = "JOB")]
    jobs: Vec<u64>,
    /// Why, recorded with the job; "by user" where nothing is given.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
}

impl Cancel {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let all = jobs(&self.jobs);
        if !self.yes && !confirmed("cancel", &format!("stop {all}?"))? {
            context.say(format!("nothing was done to {all}"));
            return Ok(Exit::Stopped.into());
        }
        let act = async |id| self.cancel(context, id).await;
        each(context, &self.jobs, act, |job| {
            let word = job.state().word();
            if job.state().is_final() {
                format!("{}   {word}", job.id)
            } else {
                format!("{}   saving and stopping", job.id)
            }
        })
        .await
    }

    async fn cancel(&self, context: &Context, id: u64) -> Result<Job, CtlError> {
        let request = CancelRequest {
            id,
            reason: self.reason.clone(),
        };
        let answer = context.client().await?.jobs.cancel(request).await;
        Ok(answer.map_err(context.fault())?.into_inner())
    }
}
