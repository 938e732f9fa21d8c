//! `qlora-ctl`: the command line of qlora. One file for each command under `commands`.

mod cli;
mod commands;
mod context;
mod error;
mod output;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(e) => {
            qlora_client::console::note(&format!("error[Q0605]: the runtime cannot start: {e}"));
            return ExitCode::FAILURE;
        }
    };
    let json = cli.global.json;
    runtime.block_on(async {
        match commands::run(cli).await {
            Ok(code) => code,
            Err(e) => {
                output::print_error(&e, json);
                e.exit_code()
            }
        }
    })
}
