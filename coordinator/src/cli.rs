//! The coordinator's command line.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use qlora_proto::numbers::{decimal, size, whole};
use qlora_store::{ArtifactPlace, Database, StoreError};

use crate::doors;
use crate::prune::Retention;
use crate::tls::Given;

/// Holds configs and job state; hands work to workers.
///
/// Without a command it serves until a signal stops it. Exit codes: 0 stopped by a signal or done,
/// 1 network or telemetry failed, 2 usage, token file or certificates, 3 state cannot be used,
/// 4 address cannot be listened on, 5 another coordinator holds the state, 6 the lock of the
/// PostgreSQL database was lost.
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
    #[arg(long, env = "QLORA_LISTEN", default_value = "127.0.0.1:7070", value_parser = listen)]
    pub listen: SocketAddr,

    /// Folder for the database and artifacts [default: ~/.local/share/qlora/coordinator]
    #[arg(long, global = true, env = "QLORA_STATE_DIR")]
    pub state_dir: Option<PathBuf>,

    /// PostgreSQL database for jobs, in place of the one in the state folder, such as
    /// postgres://USER:PASSWORD@HOST:5432/NAME; of several coordinators with the same one, and with
    /// the same state folder, one leads and the others wait to take its place.
    #[arg(
        long,
        env = "QLORA_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub database: Option<DatabaseUrl>,

    /// Take a PostgreSQL server on another machine that does not have to show who it is, as the
    /// `sslmode` of its URL says: whoever is on the way may read and change everything.
    #[arg(long, requires = "database")]
    pub insecure_database: bool,

    /// Where artifacts lie: a folder, or s3://BUCKET/PREFIX with the standard AWS_* variables
    /// [default: `artifacts` in the state folder]
    #[arg(long, env = "QLORA_ARTIFACTS", value_name = "PLACE")]
    pub artifacts: Option<ArtifactPlace>,

    /// File whose first line is the first token, which may do everything [default: `token` in the
    /// state folder, made at the first start]
    #[arg(long, env = "QLORA_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Further name or address by which callers reach this coordinator, beside loopback, the listen
    /// address and this machine's names; repeatable.
    #[arg(long, env = "QLORA_ALLOW_HOST", value_name = "HOST", value_delimiter = ',', value_parser = doors::parse_host)]
    pub allow_host: Vec<String>,

    /// Certificate that callers are shown, before those of its CAs, in PEM [default: the one that
    /// `init` has made in the state folder]
    #[arg(
        long,
        env = "QLORA_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    pub tls_cert: Option<PathBuf>,

    /// Its key, in PEM.
    #[arg(
        long,
        env = "QLORA_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub tls_key: Option<PathBuf>,

    /// Ask workers for a certificate of this CA, such as one that `certify` has made.
    #[arg(long, env = "QLORA_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,

    /// Serve without TLS, also beyond this machine: whoever is on the way reads everything, tokens
    /// too.
    #[arg(long, conflicts_with_all = ["tls_cert", "tls_key", "tls_client_ca"])]
    pub insecure_no_tls: bool,

    /// Silence after which a worker has lost its job, in seconds.
    #[arg(long, default_value = "30", allow_negative_numbers = true, value_parser = seconds)]
    pub lease: Duration,

    /// Delete an ended job so many days after its end, with all that is kept of it; of the options
    /// that begin with `--keep`, each deletes what is beyond it, and without them no job is deleted.
    #[arg(long, value_name = "DAYS", allow_negative_numbers = true, value_parser = whole::<u64>("a number of days", 1..))]
    pub keep_jobs_days: Option<u64>,

    /// Keep the N jobs that ended last, and delete others that have ended.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<u64>("a number of jobs", 0..))]
    pub keep_jobs: Option<u64>,

    /// Delete the jobs that ended first while the artifacts of all jobs take more than this, such as
    /// 500GB or 2TiB.
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, value_parser = size)]
    pub keep_bytes: Option<u64>,

    /// Run at most N jobs of one user at one time; further ones wait. A user is a token, by its name.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<u64>("a number of jobs", 1..))]
    pub max_running_per_user: Option<u64>,

    /// Let at most N jobs of one user wait at one time, paused ones included; further ones are
    /// refused.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<u64>("a number of jobs", 1..))]
    pub max_queued_per_user: Option<u64>,

    /// Write the address that was bound to this file once it serves; for `--listen 127.0.0.1:0`.
    #[arg(long, value_name = "FILE")]
    pub address_file: Option<PathBuf>,

    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What is done before the coordinator serves, or beside it.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a CA, a certificate of this coordinator and the first token in the state folder.
    ///
    /// A coordinator with these files speaks TLS. A certificate is valid for a year and the CA for
    /// ten. What is there already is left as it is.
    Init {
        /// Further name or address by which callers reach this coordinator, beside loopback and
        /// this machine's names; repeatable
        #[arg(long, value_name = "HOST", value_delimiter = ',', value_parser = doors::parse_host)]
        host: Vec<String>,
    },
    /// Make a certificate that a worker shows to a coordinator with --tls-client-ca, and its key.
    Certify {
        /// Name of the worker, which names the files too
        #[arg(value_parser = worker_name)]
        name: String,
    },
    /// Copy the state folder to FOLDER, also while a coordinator serves it.
    ///
    /// The copy is a state folder itself, of one moment. Artifacts that FOLDER has from an earlier
    /// backup are not copied again. Jobs in PostgreSQL are not in it: pg_dump copies those.
    Backup {
        /// Folder for the copy; it is made where it is missing
        folder: PathBuf,
    },
    /// Move all jobs from the state folder to a PostgreSQL database that holds none.
    ///
    /// No coordinator may serve either meanwhile. Workers that train go on, and find the coordinator
    /// that is started with the new database. The old one is kept as qlora.db.moved.
    Move(ServerUrl),
}

/// A PostgreSQL database that has to be given.
#[derive(Debug, Args)]
pub struct ServerUrl {
    /// The database, such as postgres://USER:PASSWORD@HOST:5432/NAME
    #[arg(
        long,
        env = "QLORA_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    database: DatabaseUrl,

    /// Take a server on another machine that does not have to show who it is, as the `sslmode` of
    /// its URL says: whoever is on the way may read and change everything
    #[arg(long)]
    insecure_database: bool,
}

impl ServerUrl {
    /// # Errors
    /// What is given names no database.
    pub fn database(&self, lease: Duration) -> Result<Database, StoreError> {
        self.database.open(self.insecure_database, lease)
    }
}

/// A name that is a file's as well.
fn worker_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins && text.len() <= 64 && text.chars().all(plain) {
        return Ok(text.into());
    }
    Err(
        "write up to 64 letters, digits, points, dashes and underlines, a letter or digit first"
            .into(),
    )
}

/// The URL of a database as it was given. It may hold a password, so that it is shown nowhere: the
/// parser of the command line would repeat one that it refuses.
#[derive(Clone)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    fn open(&self, is_insecure: bool, lease: Duration) -> Result<Database, StoreError> {
        let database = Database::new(&self.0, is_insecure)?;
        Ok(database.answering_within(statement_limit(lease)))
    }
}

impl FromStr for DatabaseUrl {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl")
    }
}

/// How long the database may take over a statement or a commit. The driver waits for three of them
/// at the most before it knows the fate of a commit or leads no more, and no lease is to end
/// meanwhile. A server on a slow disk needs the least that there is.
fn statement_limit(lease: Duration) -> Duration {
    (lease / 3).clamp(Duration::from_secs(2), Duration::from_secs(10))
}

fn listen(text: &str) -> Result<SocketAddr, String> {
    let fault = |_| {
        "write an IP address and a port, such as 127.0.0.1:7070, or 0.0.0.0:7070 for all addresses"
            .into()
    };
    text.parse().map_err(fault)
}

fn seconds(text: &str) -> Result<Duration, String> {
    decimal("a number of seconds", 1.0..=3600.0)(text).map(Duration::from_secs_f64)
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

    /// The files of TLS that were named.
    pub fn given_tls(&self) -> Given {
        Given {
            server: self.tls_cert.clone().zip(self.tls_key.clone()),
            client_ca: self.tls_client_ca.clone(),
        }
    }

    /// The PostgreSQL database, where one is given.
    ///
    /// # Errors
    /// What is given names none.
    pub fn database(&self) -> Result<Option<Database>, StoreError> {
        let given = self.database.as_ref();
        given
            .map(|url| url.open(self.insecure_database, self.lease))
            .transpose()
    }

    /// The name by which others are told to call: the first that was allowed, else that of this
    /// machine where it listens on all addresses.
    pub fn advertised(&self, bound: SocketAddr) -> String {
        let port = bound.port();
        let own = || qlora_access::names().into_iter().next();
        let host = match self.allow_host.first() {
            Some(allowed) => Some(allowed.clone()),
            None if bound.ip().is_unspecified() => own(),
            None => None,
        };
        match host {
            None => bound.to_string(),
            Some(host) => match host.parse() {
                Ok(ip) => SocketAddr::new(ip, port).to_string(),
                Err(_) => format!("{host}:{port}"),
            },
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
    fn a_certificate_needs_its_key_and_goes_with_no_plain_serving() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["qlora-coordinator"], args].concat());
        for args in [
            &["--tls-cert", "a"][..],
            &["--tls-key", "a"],
            &["--insecure-no-tls", "--tls-client-ca", "a"],
        ] {
            assert!(parse(args).is_err(), "{args:?}");
        }
        let cli = parse(&["--tls-cert", "a", "--tls-key", "b"]).expect("a pair");
        assert_eq!(cli.given_tls().server, Some(("a".into(), "b".into())));
        let cli = parse(&["init", "--state-dir", "s", "--host", "a.example,10.0.0.7"]);
        let cli = cli.expect("a command");
        assert_eq!(cli.state_dir, Some("s".into()));
        assert!(matches!(cli.command, Some(Command::Init { host }) if host.len() == 2));
        for name in ["", "..", "a/b", "-a", "\u{e9}"] {
            assert!(parse(&["certify", "--", name]).is_err(), "{name}");
        }
        assert!(parse(&["certify", "gpu-1"]).is_ok());
    }

    #[test]
    fn a_database_is_parsed_late_and_shown_nowhere() {
        let parse = |args: &[&str]| {
            Cli::try_parse_from([&["qlora-coordinator"], args].concat()).expect("a command line")
        };
        assert!(parse(&[]).database().expect("no database").is_none());
        let url = "postgres://me:secret@host/jobs?sslmode=disable";
        let cli = parse(&["--database", url, "--insecure-database"]);
        let shown = format!("{cli:?}");
        assert!(!shown.contains("secret"), "{shown}");
        let database = cli.database().expect("a database").expect("one");
        assert_eq!(database.to_string(), "postgres://me@host:5432/jobs");
        let fault = parse(&["--database", url])
            .database()
            .expect_err("no consent");
        assert!(fault.to_string().contains("--insecure-database"), "{fault}");
        let fault = parse(&["--database", "secret"])
            .database()
            .expect_err("no database");
        assert!(!fault.to_string().contains("secret"), "{fault}");
    }

    #[test]
    fn a_value_of_another_form_is_refused_with_what_is_taken() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["qlora-coordinator"], args].concat());
        for (option, values, example) in [
            (
                "--listen",
                &["localhost:7070x", "42055", "localhost:7070"][..],
                "127.0.0.1:7070",
            ),
            (
                "--max-running-per-user",
                &["x", "0", "-1", ""],
                "jobs, 1 or higher",
            ),
            ("--max-queued-per-user", &["x", "0"], "jobs, 1 or higher"),
            ("--keep-jobs-days", &["x", "0"], "days, 1 or higher"),
            ("--keep-jobs", &["x", "1.5"], "jobs, 0 or higher"),
            ("--lease", &["x", "0.5", "3601"], "seconds from 1 to 3600"),
        ] {
            for value in values {
                let fault = parse(&[&format!("{option}={value}")]).expect_err("a refusal");
                assert!(fault.to_string().contains(example), "{fault}");
            }
        }
        let cli = parse(&[
            "--listen",
            "[::1]:1",
            "--keep-jobs",
            "0",
            "--max-queued-per-user",
            "1",
        ]);
        let cli = cli.expect("a command line");
        assert_eq!((cli.keep_jobs, cli.max_queued_per_user), (Some(0), Some(1)));
    }

    #[test]
    fn others_are_told_a_name_that_leads_here() {
        let advertised = |args: &[&str], bound: &str| {
            let cli = Cli::try_parse_from([&["qlora-coordinator"], args].concat());
            let bound = bound.parse().expect("an address");
            cli.expect("a command line").advertised(bound)
        };
        assert_eq!(advertised(&[], "10.0.0.5:7070"), "10.0.0.5:7070");
        let allowed = ["--allow-host", "head.example"];
        assert_eq!(advertised(&allowed, "10.0.0.5:7070"), "head.example:7070");
        assert!(!advertised(&[], "0.0.0.0:7070").starts_with("0.0.0.0"));
    }
}
