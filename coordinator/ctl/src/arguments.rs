//! Arguments that several commands share: the global options, and the number of a job.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Address of the coordinator.
    #[arg(
        long,
        global = true,
        env = "QLORA_URL",
        default_value = "127.0.0.1:7070",
        value_name = "ADDR"
    )]
    pub coordinator: String,

    /// File whose first line is the coordinator's token; QLORA_TOKEN may hold the token itself. Not
    /// needed where you run the coordinator as the same user on this machine.
    #[arg(long, global = true, env = "QLORA_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Print JSON: one object, or one per line for lists and streams.
    #[arg(long, global = true)]
    pub json: bool,

    /// Print results only, no progress.
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// Parses a job number.
pub fn job_number(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "a job is a number, 1 or higher; `qlora-ctl jobs` lists them".into())
}
