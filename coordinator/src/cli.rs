//! The coordinator's command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::doors;
use crate::prune::Retention;

/// Holds configs and job state; hands work to workers.
///
/// Exit codes: 0 stopped by a signal, 1 network or telemetry failed, 2 usage or token file,
/// 3 state cannot be used, 4 address cannot be listened on, 5 another coordinator holds the state.
#[derive(Debug, Parser)]
#[command(
    name = "qlora-coordinator",
    version,
    about,
    long_about,
    verbatim_doc_comment
)]
pub struct Cli {
    /// Address for workers, qlora-ctl and browsers.
    #[arg(long, env = "QLORA_LISTEN", default_value = "127.0.0.1:7070")]
    pub listen: SocketAddr,

    /// Folder for the database and artifacts [default: ~/.local/share/qlora/coordinator]
    #[arg(long, env = "QLORA_STATE_DIR")]
    pub state_dir: Option<PathBuf>,

    /// File whose first line is the first token, which may do everything [default: `token` in the
    /// state folder, made at the first start]
    #[arg(long, env = "QLORA_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Further name or address by which callers reach this coordinator, beside loopback, the listen
    /// address and this machine's names; repeatable.
    #[arg(long, env = "QLORA_ALLOW_HOST", value_name = "HOST", value_delimiter = ',', value_parser = doors::parse_host)]
    pub allow_host: Vec<String>,

    /// Silence after which a worker has lost its job, in seconds.
    #[arg(long, default_value = "30", value_parser = seconds)]
    pub lease: Duration,

    /// Delete an ended job so many days after its end, with all that is kept of it; of the options
    /// that begin with `--keep`, each deletes what is beyond it, and without them no job is deleted.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u64).range(1..))]
    pub keep_jobs_days: Option<u64>,

    /// Keep the N jobs that ended last, and delete others that have ended.
    #[arg(long, value_name = "N")]
    pub keep_jobs: Option<u64>,

    /// Delete the jobs that ended first while the artifacts of all jobs take more than this, such as
    /// 500GB or 2TiB.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub keep_bytes: Option<u64>,

    /// Run at most N jobs of one user at one time; further ones wait. A user is a token, by its name.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_running_per_user: Option<u64>,

    /// Let at most N jobs of one user wait at one time, paused ones included; further ones are
    /// refused.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_queued_per_user: Option<u64>,

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

/// A number of bytes, with a unit or without.
fn size(text: &str) -> Result<u64, String> {
    let fault = || "give bytes with a unit or without, such as 500GB or 2TiB".to_owned();
    let is_of_number = |c: char| c.is_ascii_digit() || c == '.';
    let (number, unit) = text.split_at(text.find(|c: char| !is_of_number(c)).unwrap_or(text.len()));
    let unit: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(fault()),
    };
    match number.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok((number * unit as f64) as u64),
        _ => Err(fault()),
    }
}

impl Cli {
    /// How much of ended jobs is kept.
    pub fn retention(&self) -> Retention {
        Retention {
            days: self.keep_jobs_days,
            jobs: self.keep_jobs,
            bytes: self.keep_bytes,
        }
    }

    /// The state folder, by default under the user's data folder.
    pub fn state_folder(&self) -> Option<PathBuf> {
        self.state_dir
            .clone()
            .or_else(|| Some(qlora_access::data_folder()?.join("qlora/coordinator")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_taken_one_by_one_or_in_a_list_and_bad_ones_are_named() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["qlora-coordinator"], args].concat());
        let cli = parse(&["--allow-host", "a.example,10.0.0.7", "--allow-host", "B"])
            .expect("a command line");
        assert_eq!(cli.allow_host, ["a.example", "10.0.0.7", "b"]);
        let fault = parse(&["--allow-host", "a:7070"])
            .expect_err("a refusal")
            .to_string();
        assert!(
            fault.contains("a:7070") && fault.contains("without port"),
            "{fault}"
        );
    }

    #[test]
    fn sizes_have_units_or_none() {
        let sizes = [
            ("0", 0),
            ("1500", 1_500),
            ("1.5 kB", 1_500),
            ("2GB", 2_000_000_000),
            ("2TiB", 2 << 40),
        ];
        for (text, bytes) in sizes {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GB", "-1", "1gb", "1.2.3", "1 G B", "1e9"] {
            assert!(
                size(text).is_err_and(|fault| fault.contains("500GB")),
                "{text}"
            );
        }
    }
}
