//! Where a database is, and how it is connected to. Its password is never shown.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use tokio::time::timeout;

use crate::error::StoreError;

/// How long the server may take to answer where nothing but an answer is asked for.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// What every session sets. The server notices within 4 s that a peer has vanished, and then gives
/// its locks away; a transaction that nobody goes on with ends. A commit returns once it is on disk,
/// whatever the server's own setting is.
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

/// A PostgreSQL database, by its URL.
#[derive(Clone)]
pub struct Database {
    options: PgConnectOptions,
    shown: String,
}

impl Database {
    pub(super) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        timeout(PATIENCE, self.options.connect())
            .await
            .unwrap_or_else(|_| Err(late()))
    }

    /// Connections for reading, made when they are needed.
    pub(super) fn pool(&self) -> PgPool {
        PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(PATIENCE)
            .connect_lazy_with(self.options.clone())
    }
}

/// The fault of a server that does not answer in time.
pub(super) fn late() -> sqlx::Error {
    let text = format!("the server did not answer within {} s", PATIENCE.as_secs());
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text))
}

impl FromStr for Database {
    type Err = StoreError;

    /// Takes `postgres://USER@HOST:PORT/NAME`, with a password or without, and with the parameters
    /// that libpq knows behind a question mark.
    fn from_str(url: &str) -> Result<Self, StoreError> {
        let is_postgres = ["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| url.starts_with(scheme));
        // The text itself stays out of every fault: it may hold a password.
        let refused = |fault: String| StoreError::NoDatabase { fault };
        if !is_postgres {
            return Err(refused("it does not begin with postgres://".into()));
        }
        let options = PgConnectOptions::from_str(url).map_err(|e| refused(e.to_string()))?;
        let Some(name) = options.get_database() else {
            return Err(refused("it names no database behind the host".into()));
        };
        let host = match options.get_socket() {
            Some(folder) => folder.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        };
        let shown = format!("postgres://{}@{host}/{name}", options.get_username());
        let options = options
            .application_name("qlora-coordinator")
            .options(SETTINGS);
        Ok(Self { options, shown })
    }
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
        let url = "postgresql://me:very%20secret@db.example:6432/jobs?sslmode=require";
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
