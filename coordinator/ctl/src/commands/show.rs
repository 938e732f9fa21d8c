use std::process::ExitCode;

use clap::Args;
use qlora_proto::GetJobRequest;

use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::output::{human, json, print_json};

/// Show one job.
#[derive(Debug, Args)]
pub struct Show {
    job: u64,
    /// Print the exact configuration that the job records.
    #[arg(long)]
    config: bool,
}

impl Show {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let job =
            context.client()?.jobs.get_job(GetJobRequest { id: self.job }).await.map_err(context.fault())?.into_inner();
        if context.global.json {
            print_json(&json::job(&job));
        } else if self.config {
            let value: serde_json::Value = serde_json::from_str(&job.config_json).unwrap_or_default();
            println!("{value:#}");
        } else {
            println!("{}", human::job(&job));
        }
        Ok(Exit::Done.into())
    }
}
