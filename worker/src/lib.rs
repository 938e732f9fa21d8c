//! `qlora-worker`: registers a machine with a coordinator, pulls jobs, trains them in a child
//! process, reports. One file for each command under `commands`. What is public beside the program
//! is for its benchmark.

mod agent;
mod child;
mod cli;
mod commands;
mod error;
mod identity;
mod interrupt;
mod models;
mod output;
mod platform;
pub mod process_group;
mod signals;

use std::process::ExitCode;

use clap::Parser;
use qlora_client::{Fault, fault};

use crate::cli::Cli;
use crate::error::WorkerError;

/// Runs the program by its command line.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    let json = cli.json;
    match commands::run(cli) {
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use qlora_testkit::{documented, help};

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
    fn every_refusal_of_a_number_says_where_it_stands_and_what_is_taken() {
        let mut cli = Cli::command();
        cli.build();
        let (without, numbers) = help::numbers_without_words(&cli);
        assert_eq!(without, [""; 0]);
        assert!(numbers >= 8, "only {numbers} are found");
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
