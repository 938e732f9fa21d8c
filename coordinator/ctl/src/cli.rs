//! The commands and the options that all of them share.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    artifacts, cancel, completions, config, data, eval, explain, jobs, logs, metrics, page, plan,
    quickstart, show, submit, watch, workers,
};

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

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Address of the coordinator.
    #[arg(
        long,
        global = true,
        env = "QLORA_URL",
        default_value = "127.0.0.1:7070",
        value_name = "ADDR"
    )]
    pub coordinator: String,

    /// File whose first line is the coordinator's token; QLORA_TOKEN may hold the token itself. Not
    /// needed where you run the coordinator as the same user on this machine.
    #[arg(long, global = true, env = "QLORA_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Print JSON: one object, or one a line where there are many.
    #[arg(long, global = true)]
    pub json: bool,

    /// Print results only, no progress.
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// Reads the number of a job.
pub fn job_number(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "a job is a number from 1 on, as `qlora-ctl jobs` lists them".into())
}

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
    Workers(workers::Workers),
    #[command(subcommand)]
    Artifacts(artifacts::Artifacts),
    Page(page::Page),
    Plan(plan::Plan),
    Explain(explain::Explain),
    #[command(subcommand)]
    Config(config::Config),
    #[command(subcommand)]
    Data(data::Data),
    Completions(completions::Completions),
}
