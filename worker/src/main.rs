//! `qlora-worker`: registers a machine with a coordinator, pulls jobs, trains them in a child
//! process, reports.

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
mod interrupt;
mod measure;
mod models;
mod output;
mod platform;
mod signals;

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use qlora_client::{Fault, fault};

use crate::cli::{Cli, Command, ModelCommand};
use crate::error::WorkerError;

/// A training step takes and gives back the same large buffers; the system's allocator returns them
/// to the kernel and faults them in again, a tenth of the time of a step.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    let json = cli.json;
    match run(cli) {
        Ok(code) => code,
        Err(e) => {
            if !matches!(e, WorkerError::OutputClosed) {
                fault::tell(&e.faults(), json);
            }
            e.exit_code()
        }
    }
}

/// A command line that asks for help, or for what cannot be parsed: in words, or as JSON where that
/// is asked for.
fn usage(error: &clap::Error) -> ExitCode {
    if error.exit_code() == 0 || !fault::wants_json(std::env::args_os()) {
        error.exit();
    }
    fault::tell(&[Fault::usage(&error.render().to_string())], true);
    ExitCode::from(2)
}

fn run(cli: Cli) -> Result<ExitCode, WorkerError> {
    let json = cli.json;
    match cli.command {
        None => agent::run(cli.agent),
        Some(Command::Train { spec }) => Ok(child::run(&spec)),
        Some(Command::Doctor) => doctor::run(&cli.agent, json),
        Some(Command::Bench(args)) => measure::run(&args, json),
        Some(Command::Logits {
            model,
            adapter,
            out,
        }) => compare::run(&model, adapter.as_deref(), &out, json),
        Some(Command::Score(args)) => answers::score(&cli.agent, &args, json),
        Some(Command::Generate(args)) => answers::generate(&cli.agent, &args, json),
        Some(Command::Merge(args)) => export::merge(&args, json),
        Some(Command::Convert(args)) => export::convert(&args, json),
        Some(Command::Model(ModelCommand::Fetch { name })) => models::fetch_and_print(&name, json),
        Some(Command::Model(ModelCommand::List)) => models::list(json),
        Some(Command::Model(ModelCommand::Text { name, out })) => models::text(&name, &out, json),
        Some(Command::Model(ModelCommand::Shape { name })) => models::shape(&name, json),
    }
}

#[cfg(test)]
#[path = "../../tests/src/documented.rs"]
mod documented;
#[cfg(test)]
#[path = "../../tests/src/help.rs"]
mod help;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Commands without others below them whose help shows no call of theirs.
    fn without_example(command: &clap::Command) -> Vec<String> {
        let shows = command
            .get_after_help()
            .is_some_and(|help| help.to_string().contains("qlora-worker"));
        let own = (!command.has_subcommands() && !shows).then(|| command.get_name().to_owned());
        own.into_iter()
            .chain(help::shown(command).flat_map(without_example))
            .collect()
    }

    #[test]
    fn every_command_says_what_it_is_in_one_line_and_shows_an_example() {
        let mut cli = Cli::command();
        cli.build();
        assert_eq!(help::without_words(&cli), [""; 0]);
        assert_eq!(without_example(&cli), [""; 0]);
    }

    #[test]
    fn every_example_of_the_help_is_one_that_the_parser_takes() {
        fn examples(command: &clap::Command, found: &mut Vec<String>) {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            found.extend(
                help.lines()
                    .map(str::trim)
                    .filter(|line| line.starts_with("qlora-worker"))
                    .map(str::to_owned),
            );
            command.get_subcommands().for_each(|c| examples(c, found));
        }
        let mut found = Vec::new();
        examples(&Cli::command(), &mut found);
        assert!(found.len() > 10, "{found:?}");
        for example in found {
            let words: Vec<String> = example
                .split_whitespace()
                .map(|word| word.trim_matches('"').to_owned())
                .collect();
            assert!(Cli::try_parse_from(words).is_ok(), "{example}");
        }
    }

    #[test]
    fn every_documented_call_is_one_that_the_parser_takes() {
        // Help and version are asked for; they are no fault.
        documented::each_is_taken("qlora-worker", |words| {
            Cli::try_parse_from(words)
                .err()
                .filter(|e| e.exit_code() != 0)
                .map(|e| e.to_string())
        });
    }
}
