use std::process::ExitCode;

use clap::Args;
use qlora_client::console;

use crate::arguments::job_number;
use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::interrupt::interrupted;
use crate::job::log;
use crate::output::{human, json, print, print_json};

/// Print a job's log.
#[derive(Debug, Args)]
pub struct Logs {
    /// Number of the job, as `jobs` lists it.
    #[arg(allow_negative_numbers = true, value_parser = job_number)]
    job: u64,
    /// Go on until the job has ended, also through breaks of the connection.
    #[arg(long, short)]
    follow: bool,
}

impl Logs {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        if !self.follow {
            return self.print(context).await;
        }
        tokio::select! {
            result = self.print(context) => result,
            () = interrupted() => Ok(Exit::Interrupted.into()),
        }
    }

    async fn print(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let mut is_empty = true;
        log::read(context, self.job, self.follow, |line| {
            is_empty = false;
            if context.global.json {
                return print_json(&json::log(line));
            }
            let time = human::time(line.unix_ms);
            print(format!(
                "{time} {:<5} {}",
                console::line(&line.level),
                console::line(&line.text)
            ))
        })
        .await?;
        if is_empty {
            context.say(format!("job {} has no log lines", self.job));
        }
        Ok(Exit::Done.into())
    }
}
