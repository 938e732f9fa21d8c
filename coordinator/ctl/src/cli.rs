//! The command line: its global options and its command.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{CommandFactory, Parser};
use qlora_telemetry::{Logs, Program};

use crate::arguments::Global;
use crate::commands::Command;
use crate::context::Context;
use crate::error::CtlError;
use crate::reach::is_silent;

/// How long a command may wait for an answer without a word.
const SILENCE: Duration = Duration::from_secs(2);

/// Submits fine-tuning jobs and follows them.
///
/// Exit codes: 0 done, 1 job failed, 2 usage, 3 bad config or data, 4 unreachable,
/// 5 refused, 6 will not fit, 7 stopped, 124 wait timed out, 130 interrupted.
#[derive(Debug, Parser)]
#[command(
    name = "qlora-ctl",
    version,
    about,
    long_about,
    verbatim_doc_comment,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Runs the command, and measures it.
    pub async fn run(self) -> Result<ExitCode, CtlError> {
        let program = Program {
            name: "qlora-ctl",
            version: env!("CARGO_PKG_VERSION"),
        };
        let _telemetry = qlora_telemetry::start(program, Logs::Warnings, false)?;
        let started = Instant::now();
        let context = Context::new(self.global);
        let result = {
            let running = self.command.run(&context, Self::command());
            tokio::pin!(running);
            tokio::select! {
                result = &mut running => result,
                () = tell_of_silence(&context) => running.await,
            }
        };
        let duration = opentelemetry::global::meter("qlora-ctl")
            .f64_histogram("qlora.ctl.duration")
            .with_unit("s")
            .build();
        let ok = matches!(result, Ok(code) if code == ExitCode::SUCCESS);
        duration.record(
            started.elapsed().as_secs_f64(),
            &[opentelemetry::KeyValue::new("ok", ok)],
        );
        result
    }
}

/// Says that the command waits, once it has waited for long and the coordinator does not answer.
async fn tell_of_silence(context: &Context) {
    tokio::time::sleep(SILENCE).await;
    let Some(address) = context.called() else {
        return;
    };
    if is_silent(address).await {
        context.say(format!(
            "waiting for an answer from {address}, which gives none so far"
        ));
    }
}
