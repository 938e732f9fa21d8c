//! Arguments that several commands share: the global options, the number of a job.

use std::path::PathBuf;

use clap::Args;
use qlora_client::TlsFiles;
use qlora_proto::numbers::whole;

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Address of the coordinator; with commas those of several that share a database.
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

    /// File with the certificates, in PEM, by which an https:// coordinator is known: its ca.pem. Not
    /// needed where you run it as the same user on this machine [default: those of the system]
    #[arg(long, global = true, env = "QLORA_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// File with a certificate, in PEM, to show to the coordinator.
    #[arg(long, global = true, env = "QLORA_CERT", value_name = "FILE")]
    pub cert: Option<PathBuf>,

    /// File with its key, in PEM.
    #[arg(long, global = true, env = "QLORA_KEY", value_name = "FILE")]
    pub key: Option<PathBuf>,

    /// Print JSON: one object, or one per line for lists and streams.
    #[arg(long, global = true)]
    pub json: bool,

    /// Print results only, no progress.
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

impl Global {
    /// The files of TLS that were named.
    pub fn tls(&self) -> TlsFiles {
        TlsFiles {
            ca: self.ca.clone(),
            certificate: self.cert.clone(),
            key: self.key.clone(),
        }
    }
}

/// Parses a job number.
pub fn job_number(text: &str) -> Result<u64, String> {
    whole("the number of a job, which `qlora-ctl jobs` lists", 1..)(text)
}

/// Parses an idempotency key. None at all is what an empty one would mean to the coordinator.
pub fn key(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("it is empty; write a key of your own, or leave the option away".into());
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_not_empty() {
        assert_eq!(key("a b"), Ok("a b".into()));
        for text in ["", " ", "\n"] {
            assert!(key(text).is_err(), "{text:?}");
        }
    }
}
