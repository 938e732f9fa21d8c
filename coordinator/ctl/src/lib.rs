//! `qlora-ctl`: the command line of qlora.
//!
//! `commands` has one file for each command. A command takes a `context`, reads what it is given
//! through `input`, does things with jobs through `job`, does one thing to several jobs or workers
//! through `each`, and prints through `output`.

mod arguments;
mod cli;
mod commands;
mod context;
mod each;
mod error;
mod input;
mod interrupt;
mod job;
mod output;
mod programs;
mod reach;
mod status;
mod worker;

use std::process::ExitCode;

use clap::Parser;

use qlora_client::{Fault, fault};
use qlora_codes::Code;

use crate::cli::Cli;
use crate::error::Exit;

/// Runs the program by its command line.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(e) => {
            let message = format!("the runtime cannot start: {e}");
            fault::tell(&[Fault::new(Code::File, message, "")], cli.global.json);
            return ExitCode::FAILURE;
        }
    };
    let json = cli.global.json;
    runtime.block_on(async {
        match cli.run().await {
            Ok(code) => code,
            Err(e) => {
                output::print_error(&e, json);
                e.exit_code()
            }
        }
    })
}

/// A command line that asks for help, or for what cannot be parsed: in words, or as JSON where that
/// is asked for.
fn usage(error: &clap::Error) -> ExitCode {
    if error.exit_code() == 0 || !fault::wants_json(std::env::args_os()) {
        error.exit();
    }
    fault::tell(&[Fault::usage(&error.render().to_string())], true);
    Exit::Usage.into()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use qlora_testkit::{documented, help};

    use super::*;

    #[test]
    fn every_command_and_argument_says_what_it_is_in_one_line() {
        let mut cli = Cli::command();
        cli.build();
        assert_eq!(help::without_words(&cli), [""; 0]);
    }

    #[test]
    fn every_refusal_of_a_number_says_where_it_stands_and_what_is_taken() {
        let mut cli = Cli::command();
        cli.build();
        let (without, numbers) = help::numbers_without_words(&cli);
        assert_eq!(without, [""; 0]);
        assert!(numbers >= 18, "only {numbers} are found");
    }

    #[test]
    fn every_documented_call_is_one_that_the_parser_takes() {
        // Help and version are asked for; they are no fault.
        documented::each_is_taken("qlora-ctl", |words| {
            Cli::try_parse_from(words)
                .err()
                .filter(|e| e.exit_code() != 0)
                .map(|e| e.to_string())
        });
    }
}
