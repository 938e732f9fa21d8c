//! The commands and the options that all of them share.

mod agent;

use clap::{Parser, Subcommand};

pub use agent::AgentArgs;

use crate::commands::bench;
use crate::commands::convert;
use crate::commands::doctor;
use crate::commands::generate;
use crate::commands::logits;
use crate::commands::merge;
use crate::commands::model;
use crate::commands::score;
use crate::commands::train;

/// Registers this machine with a coordinator, pulls jobs, trains them, reports.
///
/// Without a command it serves until a signal stops it; the commands work alone, most of them
/// without a coordinator. Exit codes: 0 done, 1 failed, 2 usage, 3 bad model, data, configuration
/// or path, 4 unreachable, 5 refused.
#[derive(Debug, Parser)]
#[command(name = "qlora-worker", version, about, long_about, verbatim_doc_comment, after_help = SERVE)]
pub struct Cli {
    #[command(flatten)]
    pub agent: AgentArgs,
    /// Print JSON: one object, or one a line where there are many; errors too.
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

const SERVE: &str = "Examples:
  qlora-worker
  qlora-worker --coordinator https://10.0.0.5:7070 --ca ca.pem --token-file token
  qlora-worker doctor";

/// The help of each is the doc comment of its type.
#[derive(Debug, Subcommand)]
pub enum Command {
    #[command(hide = true)]
    Train(train::Train),
    Doctor(doctor::Doctor),
    Bench(bench::Bench),
    Logits(logits::Logits),
    Merge(merge::Merge),
    Convert(convert::Convert),
    Score(score::Score),
    Generate(generate::Generate),
    #[command(subcommand)]
    Model(model::Model),
}
