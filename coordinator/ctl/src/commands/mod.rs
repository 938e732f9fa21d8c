//! The commands, one file each: its arguments, with the help in their doc comments, and what it
//! does.
//!
//! This file lists them. No command imports this file or another command: what several commands
//! need is in `input` and `job`.

mod artifacts;
mod audit;
mod cancel;
mod completions;
mod config;
mod data;
mod drain;
mod eval;
mod explain;
mod jobs;
mod logs;
mod metrics;
mod page;
mod pause;
mod plan;
mod prune;
mod quickstart;
mod resume;
mod retry;
mod rm;
mod show;
mod submit;
mod token;
mod undrain;
mod watch;
mod workers;

use std::process::ExitCode;

use clap::Subcommand;

use crate::context::Context;
use crate::error::CtlError;

/// The help of each is the doc comment of its type.
#[derive(Debug, Subcommand)]
pub enum Command {
    Quickstart(quickstart::Quickstart),
    Submit(submit::Submit),
    #[command(alias = "ls")]
    Jobs(jobs::Jobs),
    Show(show::Show),
    Watch(watch::Watch),
    Eval(eval::Eval),
    Logs(logs::Logs),
    Metrics(metrics::Metrics),
    Cancel(cancel::Cancel),
    Pause(pause::Pause),
    Resume(resume::Resume),
    Retry(retry::Retry),
    Rm(rm::Rm),
    Prune(prune::Prune),
    Workers(workers::Workers),
    Drain(drain::Drain),
    Undrain(undrain::Undrain),
    #[command(subcommand)]
    Artifacts(artifacts::Artifacts),
    Page(page::Page),
    #[command(subcommand)]
    Token(token::Token),
    Audit(audit::Audit),
    Plan(plan::Plan),
    Explain(explain::Explain),
    #[command(subcommand)]
    Config(config::Config),
    #[command(subcommand)]
    Data(data::Data),
    Completions(completions::Completions),
}

impl Command {
    /// Runs it; `parser` is that of the whole command line, which completions are made from.
    #[tracing::instrument(name = "qlora-ctl", skip_all)]
    pub async fn run(self, context: &Context, parser: clap::Command) -> Result<ExitCode, CtlError> {
        match self {
            Self::Quickstart(command) => command.run(context).await,
            Self::Submit(command) => command.run(context).await,
            Self::Jobs(command) => command.run(context).await,
            Self::Show(command) => command.run(context).await,
            Self::Watch(command) => command.run(context).await,
            Self::Eval(command) => command.run(context).await,
            Self::Logs(command) => command.run(context).await,
            Self::Metrics(command) => command.run(context).await,
            Self::Cancel(command) => command.run(context).await,
            Self::Pause(command) => command.run(context).await,
            Self::Resume(command) => command.run(context).await,
            Self::Retry(command) => command.run(context).await,
            Self::Rm(command) => command.run(context).await,
            Self::Prune(command) => command.run(context).await,
            Self::Workers(command) => command.run(context).await,
            Self::Drain(command) => command.run(context).await,
            Self::Undrain(command) => command.run(context).await,
            Self::Artifacts(command) => command.run(context).await,
            Self::Plan(command) => command.run(context).await,
            Self::Page(command) => command.run(context).await,
            Self::Token(command) => command.run(context).await,
            Self::Audit(command) => command.run(context).await,
            Self::Explain(command) => command.run(context).await,
            Self::Config(command) => command.run(context).await,
            Self::Data(command) => command.run(context).await,
            Self::Completions(command) => command.run(parser),
        }
    }
}
