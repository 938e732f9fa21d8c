//! Arguments that several commands share: the global options, the number of a job, a span of time.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use qlora_client::TlsFiles;

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
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "a job is a number, 1 or higher; `qlora-ctl jobs` lists them".into())
}

/// Parses an idempotency key. None at all is what an empty one would mean to the coordinator.
pub fn key(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("it is empty; write a key of your own, or leave the option away".into());
    }
    Ok(text.into())
}

/// Parses a span of time: a number and its unit, such as 30d.
pub fn span(text: &str) -> Result<Duration, String> {
    let units = [("d", 24 * 3600), ("h", 3600), ("m", 60), ("s", 1)];
    let found = units.iter().find_map(|(unit, seconds)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*seconds)
    });
    found
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs)
        .ok_or_else(|| "write a number and d, h, m or s, such as 30d".into())
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

    #[test]
    fn a_span_is_a_number_and_a_unit() {
        for (text, seconds) in [
            ("30d", 2_592_000),
            ("12h", 43_200),
            ("90m", 5400),
            ("1s", 1),
        ] {
            assert_eq!(span(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "30",
            "d",
            "0d",
            "-1d",
            "1.5h",
            "30 d",
            "1w",
            "999999999999999999d",
        ] {
            assert!(span(text).is_err(), "{text:?}");
        }
    }
}
