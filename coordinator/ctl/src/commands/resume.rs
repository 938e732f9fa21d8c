use std::process::ExitCode;

use clap::Args;
use qlora_proto::numbers::whole;
use qlora_proto::{Job, ResumeRequest};

use crate::arguments::job_number;
use crate::context::Context;
use crate::each::each;
use crate::error::CtlError;

/// Let paused jobs go on.
///
/// A job goes on from its newest checkpoint on any worker that fits. `retry` is for jobs that have
/// ended.
#[derive(Debug, Args)]
pub struct Resume {
    /// Numbers of the jobs, as `jobs` lists them.
    #[arg(allow_negative_numbers = true, value_parser = job_number, required = true, value_name = "JOB")]
    jobs: Vec<u64>,
    /// Go back to the checkpoint of this step; later checkpoints are deleted. `artifacts list JOB`
    /// shows those that there are.
    #[arg(long, value_name = "STEP", allow_negative_numbers = true, value_parser = whole::<u64>("the number of a step", 0..))]
    from: Option<u64>,
}

impl Resume {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        if self.from.is_some() && self.jobs.len() > 1 {
            return Err(CtlError::Usage {
                message: "--from is for one job".into(),
                help: "resume the jobs one after another".into(),
            });
        }
        let act = async |id| self.resume(context, id).await;
        each(context, &self.jobs, act, |job| {
            format!("{}   {}", job.id, job.state().word())
        })
        .await
    }

    async fn resume(&self, context: &Context, id: u64) -> Result<Job, CtlError> {
        let request = ResumeRequest {
            id,
            from_step: self.from,
        };
        let answer = context.client().await?.jobs.resume(request).await;
        Ok(answer.map_err(context.fault())?.into_inner())
    }
}
