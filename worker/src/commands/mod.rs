//! One file a command; its doc comment is its help.

pub mod bench;
pub mod convert;
pub mod doctor;
mod export;
pub mod generate;
pub mod logits;
pub mod merge;
pub mod model;
pub mod score;
mod subject;
pub mod train;

use std::process::ExitCode;

use crate::agent;
use crate::cli::{Cli, Command};
use crate::error::WorkerError;

/// Runs one command; serves where there is none.
pub fn run(cli: Cli) -> Result<ExitCode, WorkerError> {
    let (agent, json) = (cli.agent, cli.json);
    let Some(command) = cli.command else {
        return agent::run(agent);
    };
    match command {
        Command::Train(command) => Ok(command.run()),
        Command::Doctor(command) => command.run(&agent, json),
        Command::Bench(command) => command.run(json),
        Command::Logits(command) => command.run(json),
        Command::Merge(command) => command.run(json),
        Command::Convert(command) => command.run(json),
        Command::Score(command) => command.run(&agent, json),
        Command::Generate(command) => command.run(&agent, json),
        Command::Model(command) => command.run(json),
    }
}
