//! One file a command; its doc comment is its help.

pub mod artifacts;
pub mod cancel;
pub mod completions;
pub mod config;
pub mod data;
pub mod explain;
pub mod jobs;
pub mod logs;
pub mod metrics;
pub mod plan;
pub mod quickstart;
pub mod show;
pub mod submit;
pub mod watch;
pub mod workers;

use std::process::ExitCode;

use qlora_telemetry::{Logs, Program};

use crate::cli::{Cli, Command};
use crate::context::Context;
use crate::error::CtlError;

/// Runs one command.
pub async fn run(cli: Cli) -> Result<ExitCode, CtlError> {
    let program = Program { name: "qlora-ctl", version: env!("CARGO_PKG_VERSION") };
    let _telemetry = qlora_telemetry::start(program, Logs::Warnings, false).map_err(|e| CtlError::Usage {
        message: e.to_string(),
        help: "unset the OTEL_* variables, or mend them".into(),
    })?;
    let context = Context::new(cli.global);
    match cli.command {
        Command::Quickstart(command) => command.run(&context).await,
        Command::Submit(command) => command.run(&context).await,
        Command::Jobs(command) => command.run(&context).await,
        Command::Show(command) => command.run(&context).await,
        Command::Watch(command) => command.run(&context).await,
        Command::Logs(command) => command.run(&context).await,
        Command::Metrics(command) => command.run(&context).await,
        Command::Cancel(command) => command.run(&context).await,
        Command::Workers(command) => command.run(&context).await,
        Command::Artifacts(command) => command.run(&context).await,
        Command::Plan(command) => command.run(&context),
        Command::Explain(command) => command.run(&context).await,
        Command::Config(command) => command.run(&context).await,
        Command::Data(command) => command.run(&context),
        Command::Completions(command) => command.run(),
    }
}
