//! One file a command of `model`.

mod fetch;
mod list;
mod shape;
mod text;

use std::process::ExitCode;

use clap::Subcommand;

use crate::error::WorkerError;

/// Models on this machine.
#[derive(Debug, Subcommand)]
pub enum Model {
    Fetch(fetch::Fetch),
    List(list::List),
    Shape(shape::Shape),
    Text(text::Text),
}

impl Model {
    pub fn run(&self, as_json: bool) -> Result<ExitCode, WorkerError> {
        match self {
            Self::Fetch(command) => command.run(as_json),
            Self::List(command) => command.run(as_json),
            Self::Shape(command) => command.run(as_json),
            Self::Text(command) => command.run(as_json),
        }
    }
}
