use std::process::ExitCode;

use clap::Args;
use qlora_proto::{Job, JobState, PauseRequest};

use crate::arguments::job_number;
use crate::context::Context;
use crate::each::each;
use crate::error::CtlError;

/// Hold jobs until they are resumed.
///
/// A running attempt saves a checkpoint and frees its worker. `resume` goes on from there.
#[derive(Debug, Args)]
pub struct Pause {
    /// Numbers of the jobs, as `jobs` lists them.
    #[arg(allow_negative_numbers = true, value_parser = job_number, required = true, value_name = "JOB")]
    jobs: Vec<u64>,
    /// Why, recorded with the job; "by user" where nothing is given.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
}

impl Pause {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let act = async |id| self.pause(context, id).await;
        each(context, &self.jobs, act, |job| match job.state() {
            JobState::Paused => format!("{}   paused", job.id),
            _ => format!("{}   saving and pausing", job.id),
        })
        .await
    }

    async fn pause(&self, context: &Context, id: u64) -> Result<Job, CtlError> {
        let request = PauseRequest {
            id,
            reason: self.reason.clone(),
        };
        let answer = context.client().await?.jobs.pause(request).await;
        Ok(answer.map_err(context.fault())?.into_inner())
    }
}
