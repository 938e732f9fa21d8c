use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::error::{CtlError, Exit};

/// Print completions for a shell: qlora-ctl completions bash > ~/.local/share/bash-completion/completions/qlora-ctl
#[derive(Debug, Args)]
pub struct Completions {
    shell: Shell,
}

impl Completions {
    pub fn run(&self) -> Result<ExitCode, CtlError> {
        clap_complete::generate(self.shell, &mut Cli::command(), "qlora-ctl", &mut std::io::stdout());
        Ok(Exit::Done.into())
    }
}
