//! What the coordinator is told on its command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// Holds configs and job state; hands work to workers.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    /// Address for workers, qlora-ctl and browsers. Beyond loopback a token is required.
    #[arg(long, env = "QLORA_LISTEN", default_value = "127.0.0.1:7070")]
    pub listen: SocketAddr,

    /// Folder for the database and artifacts [default: ~/.local/share/qlora/coordinator]
    #[arg(long, env = "QLORA_STATE_DIR")]
    pub state_dir: Option<PathBuf>,

    /// File whose first line is the token that every caller must send.
    #[arg(long, env = "QLORA_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,

    /// Silence after which a worker has lost its job, in seconds.
    #[arg(long, default_value = "30", value_parser = seconds)]
    pub lease: Duration,

    /// Write the address that was bound to this file once it serves; for `--listen 127.0.0.1:0`.
    #[arg(long, value_name = "FILE")]
    pub address_file: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(s) if (1.0..=3600.0).contains(&s) => Ok(Duration::from_secs_f64(s)),
        _ => Err("give 1 to 3600 seconds".into()),
    }
}

impl Cli {
    /// The state folder, by default under the user's data folder.
    pub fn state_folder(&self) -> Option<PathBuf> {
        self.state_dir.clone().or_else(|| {
            let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
            let home = || std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".local/share"));
            data.or_else(home).map(|d| d.join("qlora/coordinator"))
        })
    }
}
