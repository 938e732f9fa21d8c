use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Args;
use qlora_proto::CancelRequest;

use crate::arguments::job_number;
use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::output::{json, print_json};

/// Stop a job; what it has saved stays.
///
/// A running attempt saves a checkpoint first.
#[derive(Debug, Args)]
pub struct Cancel {
    /// Number of the job, as `jobs` lists it.
    #[arg(value_parser = job_number)]
    job: u64,
    /// Why, recorded with the job; "by user" where nothing is given.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
}

impl Cancel {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        if !self.yes && !self.confirmed()? {
            context.say(format!("job {} goes on", self.job));
            return Ok(Exit::Stopped.into());
        }
        let request = CancelRequest {
            id: self.job,
            reason: self.reason.clone(),
        };
        let job = context
            .client()?
            .jobs
            .cancel(request)
            .await
            .map_err(context.fault())?
            .into_inner();
        if context.global.json {
            print_json(&json::job(&job, None))?;
        } else if job.state().is_final() {
            context.say(format!("{}   {}", job.id, job.state().word()));
        } else {
            context.say(format!("{}   saving and stopping", job.id));
        }
        Ok(Exit::Done.into())
    }

    fn confirmed(&self) -> Result<bool, CtlError> {
        if !std::io::stdin().is_terminal() {
            return Err(CtlError::Usage {
                message: "cancel asks before it stops a job, and there is no terminal".into(),
                help: "add --yes".into(),
            });
        }
        let mut stderr = std::io::stderr().lock();
        let asked = write!(stderr, "stop job {}? [y/N] ", self.job).and_then(|()| stderr.flush());
        asked.map_err(CtlError::io("stderr"))?;
        let mut answer = String::new();
        std::io::stdin()
            .read_line(&mut answer)
            .map_err(CtlError::io("stdin"))?;
        let answer = answer.trim().to_ascii_lowercase();
        Ok(matches!(answer.as_str(), "y" | "yes"))
    }
}
