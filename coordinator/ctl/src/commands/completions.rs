use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::error::{CtlError, Exit};
use crate::output::print_exact;

/// Print completions for a shell.
///
/// For bash: qlora-ctl completions bash > ~/.local/share/bash-completion/completions/qlora-ctl
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell that is to complete.
    shell: Shell,
}

impl Completions {
    pub fn run(&self) -> Result<ExitCode, CtlError> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "qlora-ctl", &mut script);
        print_exact(&String::from_utf8_lossy(&script))?;
        Ok(Exit::Done.into())
    }
}
