use std::process::ExitCode;

use clap::Args;
use qlora_proto::{GetJobRequest, Job, RemoveRequest};

use crate::arguments::job_number;
use crate::context::Context;
use crate::each::each;
use crate::error::{CtlError, Exit};
use crate::job::confirm::{confirmed, jobs};

/// Delete ended jobs: metrics, logs, checkpoints and adapters.
///
/// What another job needs as well stays. Numbers are not given again.
#[derive(Debug, Args)]
pub struct Rm {
    /// Numbers of the jobs, as `jobs` lists them.
    #[arg(allow_negative_numbers = true, value_parser = job_number, required = true, value_name = "JOB")]
    jobs: Vec<u64>,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
}

impl Rm {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let all = jobs(&self.jobs);
        let question = format!("delete {all} with metrics, logs and artifacts?");
        if !self.yes && !confirmed("rm", &question)? {
            context.say(format!("nothing was done to {all}"));
            return Ok(Exit::Stopped.into());
        }
        let act = async |id| self.remove(context, id).await;
        each(context, &self.jobs, act, |job| {
            format!("{}   deleted", job.id)
        })
        .await
    }

    /// Gives the job as it was.
    async fn remove(&self, context: &Context, id: u64) -> Result<Job, CtlError> {
        let mut client = context.client().await?;
        let job = client.jobs.get_job(GetJobRequest { id }).await;
        let job = job.map_err(context.fault())?.into_inner();
        let answer = client.jobs.remove(RemoveRequest { id }).await;
        answer.map_err(context.fault())?;
        Ok(job)
    }
}
