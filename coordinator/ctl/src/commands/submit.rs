use std::process::ExitCode;

use clap::Args;

use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::input::source::ConfigSource;
use crate::job::submit::submit;
use crate::job::waiting::waiting_if_known;
use crate::job::watch::watch;
use crate::output::{json, print, print_json};

/// Submit a configuration as a job.
///
/// Before anything is sent, every row is looked at as `data check` without --model does: a row with
/// findings is refused. Where the model is on this machine, its files are looked at too, and the
/// first rows are rendered by its template. The answer comes when the job is durable.
#[derive(Debug, Args)]
pub struct Submit {
    #[command(flatten)]
    source: ConfigSource,
    /// Follow the job until it ends.
    #[arg(long, short)]
    watch: bool,
    /// The same key gives the same job, however often it is submitted.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

impl Submit {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let resolved = self.source.resolve(context).await?;
        context.warn(resolved.config.warnings());
        let job = submit(context, &resolved, self.idempotency_key.clone()).await?;
        if self.watch {
            context.say(format!("{}   submitted", job.id));
            return watch(context, job.id, None).await;
        }
        if context.global.json {
            let (job, why) = waiting_if_known(context, &mut context.client()?, job).await;
            print_json(&json::job(&job, why.as_ref()))?;
        } else {
            print(job.id)?;
            context.say(format!("follow it with: qlora-ctl watch {}", job.id));
        }
        Ok(Exit::Done.into())
    }
}
