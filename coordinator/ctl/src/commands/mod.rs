//! One file a command; its doc comment is its help.

pub mod artifacts;
pub mod base;
pub mod cancel;
pub mod checked;
pub mod completions;
pub mod config;
pub mod data;
pub mod eval;
pub mod explain;
pub mod jobs;
pub mod local;
pub mod logs;
pub mod metrics;
pub mod page;
pub mod plan;
pub mod quickstart;
pub mod rows;
pub mod show;
pub mod source;
pub mod stored;
pub mod submit;
pub mod watch;
pub mod workers;

use std::process::ExitCode;
use std::time::Instant;

use qlora_telemetry::{Logs, Program};

use crate::cli::{Cli, Command};
use crate::context::Context;
use crate::error::CtlError;

/// Runs one command.
pub async fn run(cli: Cli) -> Result<ExitCode, CtlError> {
    let program = Program {
        name: "qlora-ctl",
        version: env!("CARGO_PKG_VERSION"),
    };
    let _telemetry = qlora_telemetry::start(program, Logs::Warnings, false)?;
    let started = Instant::now();
    let result = dispatch(&Context::new(cli.global), cli.command).await;
    let duration = opentelemetry::global::meter("qlora-ctl")
        .f64_histogram("qlora.ctl.duration")
        .with_unit("s")
        .build();
    duration.record(
        started.elapsed().as_secs_f64(),
        &[opentelemetry::KeyValue::new("ok", result.is_ok())],
    );
    result
}

#[tracing::instrument(name = "qlora-ctl", skip_all)]
async fn dispatch(context: &Context, command: Command) -> Result<ExitCode, CtlError> {
    match command {
        Command::Quickstart(command) => command.run(context).await,
        Command::Submit(command) => command.run(context).await,
        Command::Jobs(command) => command.run(context).await,
        Command::Show(command) => command.run(context).await,
        Command::Watch(command) => command.run(context).await,
        Command::Eval(command) => command.run(context).await,
        Command::Logs(command) => command.run(context).await,
        Command::Metrics(command) => command.run(context).await,
        Command::Cancel(command) => command.run(context).await,
        Command::Workers(command) => command.run(context).await,
        Command::Artifacts(command) => command.run(context).await,
        Command::Plan(command) => command.run(context).await,
        Command::Page(command) => command.run(context).await,
        Command::Explain(command) => command.run(context).await,
        Command::Config(command) => command.run(context).await,
        Command::Data(command) => command.run(context).await,
        Command::Completions(command) => command.run(),
    }
}
