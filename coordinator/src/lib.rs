//! `qlora-coordinator`: holds configs and job state, hands work to workers, and shows what goes on.
//!
//! One address serves gRPC, the web page, `/metrics` and `/healthz`. State lies in one folder, or jobs
//! in PostgreSQL: then further coordinators wait to take this one's place.

mod artifacts;
mod basis;
mod bound_address;
mod caller;
mod cleaning;
mod cli;
mod clock;
mod convert;
mod doors;
mod driver;
mod error;
#[cfg(test)]
mod fuzz;
mod instruments;
mod listen;
mod names;
mod needs;
mod page;
mod prune;
mod random;
mod runnable;
mod secured;
mod serve;
mod services;
mod sessions;
pub mod simulated;
mod standby;
mod state_commands;
mod tls;
mod tls_commands;
mod tokens;
mod usage;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use rustls::crypto::ring;

use crate::cli::{Cli, Command};
use crate::error::StartError;

/// Runs the program by its command line: a command, else the coordinator until a signal stops it.
pub async fn run() -> ExitCode {
    // One provider, whoever asks; it fails where there is one already, and that is this one.
    let _ = ring::default_provider().install_default();
    let mut cli = Cli::parse();
    let done = match cli.command.take() {
        Some(command) => carry_out(&cli, &command).await,
        None => serve::run(cli).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{}", e.text());
            e.exit_code()
        }
    }
}

/// Carries `command` out, and tells what it did.
async fn carry_out(cli: &Cli, command: &Command) -> Result<(), StartError> {
    let text = match command {
        Command::Init { host } => tls_commands::init(cli, host)?,
        Command::Certify { name } => tls_commands::certify(cli, name)?,
        Command::Backup { folder } => state_commands::back_up(cli, folder).await?,
        Command::Move(server) => state_commands::move_jobs(cli, server).await?,
    };
    let told = std::io::stdout().write_all(text.as_bytes());
    told.map_err(StartError::Serve)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use qlora_testkit::{documented, help};

    use super::*;

    #[test]
    fn every_refusal_of_a_number_says_where_it_stands_and_what_is_taken() {
        let mut cli = Cli::command();
        cli.build();
        let (without, numbers) = help::numbers_without_words(&cli);
        assert_eq!(without, [""; 0]);
        assert!(numbers >= 6, "only {numbers} are found");
    }

    #[test]
    fn every_documented_call_is_one_that_the_parser_takes() {
        // Help and version are asked for; they are no fault.
        documented::each_is_taken("qlora-coordinator", |words| {
            Cli::try_parse_from(words)
                .err()
                .filter(|e| e.exit_code() != 0)
                .map(|e| e.to_string())
        });
    }
}
