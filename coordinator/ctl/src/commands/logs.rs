use std::process::ExitCode;

use clap::Args;
use qlora_client::console;
use qlora_proto::StreamLogsRequest;

use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::output::{json, print, print_json};

/// Print a job's log.
#[derive(Debug, Args)]
pub struct Logs {
    job: u64,
    /// Go on until the job has ended.
    #[arg(long, short)]
    follow: bool,
}

impl Logs {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let request = StreamLogsRequest { id: self.job, after: 0, follow: self.follow };
        let mut lines = context.client()?.jobs.stream_logs(request).await.map_err(context.fault())?.into_inner();
        while let Some(line) = lines.message().await.map_err(context.fault())? {
            if context.global.json {
                print_json(&json::log(&line))?;
            } else {
                let time = jiff::Timestamp::from_millisecond(line.unix_ms)
                    .unwrap_or_default()
                    .strftime("%H:%M:%S")
                    .to_string();
                print(format!("{time} {:<5} {}", console::line(&line.level), console::line(&line.text)))?;
            }
        }
        Ok(Exit::Done.into())
    }
}
