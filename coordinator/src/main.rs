//! `qlora-coordinator`: holds configs and job state, hands work to workers, and shows what goes on.
//!
//! One address serves gRPC, the web page, `/metrics` and `/healthz`. State lies in one folder.

mod cli;
mod clock;
mod convert;
mod doors;
mod driver;
mod error;
mod listen;
mod needs;
mod page;
mod serve;
mod services;
mod vitals;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match serve::run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            e.exit_code()
        }
    }
}
