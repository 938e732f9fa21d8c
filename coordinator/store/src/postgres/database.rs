//! Where a database is, and how it is connected to. Its password is never shown.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgSslMode};
use tokio::time::timeout;

use crate::error::StoreError;

/// How long the server may take to answer where nothing but an answer is asked for.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// How long it may take where it reads or writes, unless [`Database::answering_within`] says.
const LIMIT: Duration = Duration::from_secs(10);
/// How long a step to a newer schema may take: nobody leads meanwhile, and tables may be large.
const MIGRATION: Duration = Duration::from_secs(600);

/// What every session sets. The server notices within 4 s that a peer has vanished, and then gives
/// its locks away; a transaction that nobody goes on with for 3 s ends: longer than [`PATIENCE`], so that
/// one that waits for an act can be kept. A commit returns once it is on disk, whatever the server's
/// own setting is.
const SETTINGS: [(&str, &str); 9] = [
    ("search_path", "qlora"),
    ("synchronous_commit", "on"),
    ("lock_timeout", "5s"),
    ("idle_in_transaction_session_timeout", "3s"),
    ("tcp_keepalives_idle", "1"),
    ("tcp_keepalives_interval", "1"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "4000"),
    ("client_min_messages", "warning"),
];

/// Options of a URL that say whose certificate is believed.
const ROOTS: [&str; 3] = ["sslrootcert", "ssl-root-cert", "ssl-ca"];
/// The options of a URL, all of which the library takes.
const KNOWN: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// A PostgreSQL database, by its URL.
#[derive(Clone)]
pub struct Database {
    options: PgConnectOptions,
    shown: String,
    limit: Duration,
}

impl Database {
    /// Lets a statement or a commit take so long and no longer. The fate of a commit is known after
    /// two of them: one for its own answer, and one for that of a new connection. With one for the
    /// statement before it they fill a lease, so that it is to be a third of a lease or less.
    #[must_use]
    pub fn answering_within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    pub(super) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        within(PATIENCE, self.options.connect()).await
    }

    /// Connections for reading, made when they are needed.
    pub(super) fn readers(&self) -> Readers {
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(PATIENCE)
            .connect_lazy_with(self.options.clone());
        let limit = self.limit;
        Readers { pool, limit }
    }

    /// What the server answers to one statement, or that it is late. It may still be at work then:
    /// the connection that was `asked` on must not be used any more.
    ///
    /// The limit is kept here, since no setting of the server bounds a commit that waits for a
    /// replica.
    pub(super) async fn ask<T>(
        &self,
        asked: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        within(self.limit, asked).await
    }

    /// As [`Self::ask`], of a step to a newer schema.
    pub(super) async fn ask_to_migrate<T>(
        &self,
        asked: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        within(MIGRATION, asked).await
    }
}

/// Connections for reading, and how long a statement on one may take.
#[derive(Clone)]
pub(super) struct Readers {
    pub pool: PgPool,
    limit: Duration,
}

impl Readers {
    /// What the server answers to one statement, or that it is late.
    pub async fn ask<T>(
        &self,
        asked: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        within(self.limit, asked).await
    }
}

/// What `asked` comes to, or the fault of a server that does not answer within `limit`.
pub(super) async fn within<T>(
    limit: Duration,
    asked: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    timeout(limit, asked).await.unwrap_or_else(|_| {
        let text = format!("the server did not answer within {limit:?}");
        let late = std::io::Error::new(std::io::ErrorKind::TimedOut, text);
        Err(sqlx::Error::Io(late))
    })
}

impl FromStr for Database {
    type Err = StoreError;

    /// Takes `postgres://USER@HOST:PORT/NAME`, with a password or without, and with [`KNOWN`] options
    /// behind a question mark.
    ///
    /// # Errors
    /// It is none, or another machine would not have to show who it is.
    fn from_str(url: &str) -> Result<Self, StoreError> {
        Self::new(url, false)
    }
}

impl Database {
    /// As [`Self::from_str`]. Where `is_insecure`, a server on another machine need not show who it
    /// is, if the URL has said so by an `sslmode` of its own.
    ///
    /// # Errors
    /// It is no database, or another machine would not have to show who it is.
    pub fn new(url: &str, is_insecure: bool) -> Result<Self, StoreError> {
        let is_postgres = ["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| url.starts_with(scheme));
        // The text itself stays out of every fault: it may hold a password.
        let refused = |fault: String| StoreError::NoDatabase { fault };
        if !is_postgres {
            return Err(refused("it does not begin with postgres://".into()));
        }
        check_names(url)?;
        let options = PgConnectOptions::from_str(url).map_err(|e| refused(e.to_string()))?;
        let Some(name) = options.get_database() else {
            return Err(refused("it names no database behind the host".into()));
        };
        if names(url).any(|name| ROOTS.contains(&name)) && !verifies(&options) {
            return Err(StoreError::DatabaseOption {
                fault: "says by sslrootcert whose certificate is believed, and no certificate is looked at; write sslmode=verify-full too".into(),
            });
        }
        let host = match options.get_socket() {
            Some(folder) => folder.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        };
        let shown = format!("postgres://{}@{host}/{name}", options.get_username());
        let is_waived = is_insecure && says_mode(url);
        if !(verifies(&options) || is_here(&options) || is_waived) {
            return Err(StoreError::Unverified { place: shown });
        }
        let options = options
            .application_name("qlora-coordinator")
            .options(SETTINGS);
        Ok(Self {
            options,
            shown,
            limit: LIMIT,
        })
    }
}

/// Whether nobody can be taken for the server. `require` encrypts for whoever answers.
fn verifies(options: &PgConnectOptions) -> bool {
    matches!(
        options.get_ssl_mode(),
        PgSslMode::VerifyCa | PgSslMode::VerifyFull
    )
}

/// Whether the connection leaves this machine for nobody to listen in: a socket, or loopback.
fn is_here(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    let ip = host.trim_start_matches('[').trim_end_matches(']');
    let ip: Result<IpAddr, _> = ip.parse();
    options.get_socket().is_some()
        // As `PGHOST` names a folder of sockets.
        || host.starts_with('/')
        || host == "localhost"
        || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// Whether the URL itself says how the connection is secured.
fn says_mode(url: &str) -> bool {
    names(url).any(|name| matches!(name, "sslmode" | "ssl-mode"))
}

/// The names of the options behind the question mark.
fn names(url: &str) -> impl Iterator<Item = &str> {
    let parameters = url.split_once('?').map_or("", |(_, behind)| behind);
    let parameters = parameters
        .split_once('#')
        .map_or(parameters, |(all, _)| all);
    let given = parameters.split('&').filter(|one| !one.is_empty());
    given.map(|one| one.split_once('=').map_or(one, |(name, _)| name))
}

/// Whether all options are known: the library leaves others out, and one that was to secure the
/// connection would be missed by nobody.
fn check_names(url: &str) -> Result<(), StoreError> {
    let is_known = |name: &&str| {
        KNOWN.contains(name) || name.starts_with("options[") || name.starts_with("options%5B")
    };
    let Some(unknown) = names(url).find(|name| !is_known(name)) else {
        return Ok(());
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    // What is no name may be a part of a password.
    let fault = if unknown.is_empty() || !unknown.chars().all(is_plain) {
        "has an option that is not known".to_owned()
    } else {
        let lower = unknown.to_ascii_lowercase();
        let near = KNOWN
            .iter()
            .map(|name| (strsim::damerau_levenshtein(name, &lower), name))
            .filter(|(distance, _)| *distance <= 2)
            .min();
        let meant = near.map_or_else(String::new, |(_, name)| format!("; did you mean `{name}`?"));
        format!("has the option `{unknown}`, which is not known{meant}")
    };
    Err(StoreError::DatabaseOption { fault })
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// The options that are kept hold the password.
impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_shown_without_its_password() {
        let url = "postgresql://me:very%20secret@db.example:6432/jobs?sslmode=verify-full";
        let database: Database = url.parse().expect("a database");
        assert_eq!(
            database.to_string(),
            "postgres://me@db.example:6432/jobs",
            "the user, the place and the name"
        );
        assert_eq!(format!("{database:?}"), database.to_string());
        let local: Database = "postgres://me@%2Frun%2Fpg/jobs".parse().expect("a socket");
        assert_eq!(local.to_string(), "postgres://me@/run/pg/jobs");
    }

    #[test]
    fn a_server_on_another_machine_shows_who_it_is_unless_that_is_waived_in_so_many_words() {
        let database = |host: &str, mode: &str, is_insecure| {
            let url = format!("postgres://me:secret@{host}/jobs{mode}");
            Database::new(&url, is_insecure)
        };
        let here = ["localhost", "127.0.0.2:6432", "[::1]", "%2Frun%2Fpg"];
        let modes = ["", "?sslmode=require", "?sslmode=disable"];
        for host in here {
            for mode in modes {
                assert!(database(host, mode, false).is_ok(), "{host}{mode}");
            }
        }
        for host in ["db.example", "192.0.2.1:6432", "localhost.example"] {
            for mode in ["?sslmode=verify-full", "?ssl-mode=verify-ca"] {
                assert!(database(host, mode, false).is_ok(), "{host}{mode}");
            }
            for mode in modes {
                let fault = database(host, mode, false).expect_err(mode);
                let text = fault.to_string();
                assert!(matches!(fault, StoreError::Unverified { .. }), "{text}");
                assert!(text.contains("sslmode=verify-full"), "{text}");
                assert!(text.contains("--insecure-database"), "{text}");
                assert!(!text.contains("secret"), "{text}");
            }
            // Consent to what nobody has named is none.
            assert!(database(host, "", true).is_err(), "{host}");
            assert!(database(host, "?sslrootcert=sslmode", true).is_err());
            assert!(database(host, "?application_name=b&sslmode=require", true).is_ok());
        }
        let moved = "postgres://me@localhost/jobs?host=db.example";
        assert!(Database::from_str(moved).is_err(), "a host behind the URL");
    }

    #[test]
    fn an_option_that_would_do_nothing_is_refused_by_its_name() {
        let refusal = |options: &str| {
            let url = format!("postgres://me:secret@localhost/jobs?{options}");
            let fault = Database::from_str(&url).expect_err(options);
            let text = fault.to_string();
            assert!(matches!(fault, StoreError::DatabaseOption { .. }), "{text}");
            assert!(!text.contains("secret"), "{text}");
            text
        };
        for option in ["sslmod", "SSLMODE", "ssl_mode"] {
            let text = refusal(&format!("{option}=verify-full"));
            let is_told = text.contains(&format!("`{option}`")) && text.contains("`sslmode`");
            assert!(is_told || text.contains("`ssl-mode`"), "{text}");
        }
        assert!(refusal("port=1&foo=bar").contains("`foo`"));
        assert!(refusal("foo").contains("`foo`"));
        assert!(!refusal("secret@host/jobs").contains("host"));
        for mode in ["", "&sslmode=require", "&sslmode=prefer"] {
            let text = refusal(&format!("sslrootcert=ca.pem{mode}"));
            assert!(text.contains("sslmode=verify-full"), "{text}");
        }
        for taken in [
            "sslmode=verify-ca&sslrootcert=ca.pem",
            "options[geqo]=off&user=me",
        ] {
            let url = format!("postgres://me@localhost/jobs?{taken}");
            assert!(Database::from_str(&url).is_ok(), "{taken}");
        }
    }

    #[test]
    fn what_is_no_database_is_refused_without_being_repeated() {
        for url in [
            "mysql://me:secret@host/jobs",
            "secret",
            "postgres://me:secret@host",
            "postgres://me:secret@host:port/jobs",
            "postgres://me:secret@host/jobs?sslmode=perhaps",
        ] {
            let fault = Database::from_str(url).expect_err(url).to_string();
            assert!(!fault.contains("secret"), "{fault}");
            assert!(fault.contains("--database"), "{fault}");
        }
    }
}
