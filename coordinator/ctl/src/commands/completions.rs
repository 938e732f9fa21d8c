use std::process::ExitCode;

use clap::Args;
use clap_complete::Shell;

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
    /// `parser` is that of the whole command line.
    pub fn run(&self, mut parser: clap::Command) -> Result<ExitCode, CtlError> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut parser, "qlora-ctl", &mut script);
        print_exact(&String::from_utf8_lossy(&script))?;
        Ok(Exit::Done.into())
    }
}
