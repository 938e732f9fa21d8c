use std::process::ExitCode;

use clap::Args;
use qlora_client::console;

use crate::arguments::job_number;
use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::job::record::{config, find};
use crate::job::waiting::waiting;
use crate::output::{human, json, print, print_exact, print_json};

/// Show one job.
#[derive(Debug, Args)]
pub struct Show {
    /// Number of the job, as `jobs` lists it.
    #[arg(allow_negative_numbers = true, value_parser = job_number)]
    job: u64,
    /// Print the exact configuration that the job records.
    #[arg(long)]
    config: bool,
}

impl Show {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let job = find(context, self.job).await?;
        let (job, why) = waiting(context, &mut context.client().await?, job).await?;
        if context.global.json {
            print_json(&json::job(&job, why.as_ref()))?;
        } else if self.config {
            print_exact(&console::json(&format!("{:#}\n", config(&job)?)))?;
        } else {
            print(human::job(&job, why.as_ref()))?;
        }
        Ok(Exit::Done.into())
    }
}
