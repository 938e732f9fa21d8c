//! `qlora-coordinator`: holds configs and job state, hands work to workers, and shows what goes on.
//!
//! One address serves gRPC, the web page, `/metrics` and `/healthz`. State lies in one folder, or jobs
//! in PostgreSQL: then further coordinators wait to take this one's place.

mod caller;
mod cleaning;
mod cli;
mod clock;
mod convert;
mod doors;
mod driver;
mod error;
mod instruments;
mod listen;
mod names;
mod needs;
mod page;
mod place;
mod prune;
mod runnable;
mod serve;
mod services;
mod standby;
mod tokens;
mod usage;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;

/// Runs the program by its command line, until a signal stops it.
pub async fn run() -> ExitCode {
    match serve::run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{}", e.text());
            e.exit_code()
        }
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
        documented::each_is_taken("qlora-coordinator", |words| {
            Cli::try_parse_from(words)
                .err()
                .filter(|e| e.exit_code() != 0)
                .map(|e| e.to_string())
        });
    }
}
