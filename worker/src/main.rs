//! `qlora-worker`: registers a machine with a coordinator, pulls jobs, trains them in a child process, reports.

mod agent;
mod answers;
mod child;
mod cli;
mod compare;
mod doctor;
mod error;
mod export;
mod gang;
mod identity;
mod measure;
mod models;
mod output;
mod platform;

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use qlora_client::console;

use crate::cli::{Cli, Command, ModelCommand};
use crate::error::WorkerError;

/// A training step takes and gives back the same large buffers; the system's allocator returns them to the kernel
/// and faults them in again, a tenth of the time of a step.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(e) => {
            if !matches!(e, WorkerError::OutputClosed) {
                console::note(&console::block(&e.to_string()));
            }
            e.exit_code()
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, WorkerError> {
    match cli.command {
        None => agent::run(cli.agent),
        Some(Command::Train { spec }) => Ok(child::run(&spec)),
        Some(Command::Doctor { json }) => doctor::run(&cli.agent, json),
        Some(Command::Bench(args)) => measure::run(&args),
        Some(Command::Logits { model, adapter, out }) => compare::run(&model, adapter.as_deref(), &out),
        Some(Command::Score(args)) => answers::score(&cli.agent, &args),
        Some(Command::Generate(args)) => answers::generate(&cli.agent, &args),
        Some(Command::Merge(args)) => export::merge(&args),
        Some(Command::Convert(args)) => export::convert(&args),
        Some(Command::Model(ModelCommand::Fetch { name })) => models::fetch_and_print(&name),
        Some(Command::Model(ModelCommand::List)) => models::list(),
        Some(Command::Model(ModelCommand::Text { name, out })) => models::text(&name, &out),
    }
}

#[cfg(test)]
#[path = "../../tests/src/documented.rs"]
mod documented;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_call_is_one_that_the_parser_takes() {
        // Help and version are asked for; they are no fault.
        documented::each_is_taken("qlora-worker", |words| {
            Cli::try_parse_from(words).err().filter(|e| e.exit_code() != 0).map(|e| e.to_string())
        });
    }
}
