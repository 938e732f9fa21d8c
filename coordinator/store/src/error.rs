//! Why state cannot be read or written.

use std::path::{Path, PathBuf};

use qlora_codes::Code;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the state folder {path} cannot be used: {source}")]
    Folder {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "another coordinator uses the state folder {path}; stop it, or give this one --state-dir"
    )]
    InUse { path: PathBuf },
    #[error("the database in {path} cannot be read: {}", said(source))]
    Read { path: PathBuf, source: sqlx::Error },
    /// Trying again does not mend it.
    #[error(
        "the database {path} is damaged: {fault}; stop the coordinator and restore the file from a copy, or save what can be read by `sqlite3 {path} .recover`"
    )]
    Damaged { path: PathBuf, fault: String },
    /// Nothing of the transaction is there.
    #[error("the disk of the state folder {path} is full; free space there")]
    DiskFull { path: PathBuf },
    /// Nothing of the transaction is there.
    #[error("the database in {path} cannot be written: {}", said(source))]
    NotWritten { path: PathBuf, source: sqlx::Error },
    /// What is durable must be read anew before anything else is done.
    #[error("whether the last change to the database in {path} is durable is not known: {fault}")]
    Unsure { path: PathBuf, fault: String },
    #[error(
        "the database is of schema {found}, this program knows {known}; use the newer qlora-coordinator"
    )]
    Newer { found: i64, known: usize },
    #[error(
        "--database or QLORA_DATABASE_URL names no PostgreSQL database: {fault}; write postgres://USER:PASSWORD@HOST:5432/NAME"
    )]
    NoDatabase { fault: String },
    #[error("the URL of --database or QLORA_DATABASE_URL {fault}")]
    DatabaseOption { fault: String },
    #[error(
        "the PostgreSQL server of {place} is on another machine and would not have to show who it is; write ?sslmode=verify-full&sslrootcert=FILE behind the URL, or, where nobody else is on the network, ?sslmode=require or ?sslmode=disable and give --insecure-database"
    )]
    Unverified { place: String },
    /// Nothing of the transaction is there.
    #[error("the disk of the PostgreSQL server of {place} is full; free space there")]
    ServerFull { place: String },
    /// Trying again does not mend it.
    #[error(
        "the database {place} is damaged: {fault}; stop every coordinator and restore it from a backup"
    )]
    ServerDamaged { place: String, fault: String },
    /// Nothing of a move is there.
    #[error(
        "the database {place} holds jobs, tokens or a journal of another coordinator; move to an empty one"
    )]
    Taken { place: String },
    #[error("a coordinator runs on the database {place}; stop it first")]
    Led { place: String },
    #[error(
        "a move of the jobs in the state folder {path} to PostgreSQL was cut off; call qlora-coordinator move again with the same --database"
    )]
    Moving { path: PathBuf },
    #[error(
        "the jobs of the state folder {path} were moved to PostgreSQL; give --database, or, to go on as before the move, give qlora.db.moved the name qlora.db"
    )]
    Moved { path: PathBuf },
    #[error("another program reads the database in {path}, such as a backup; wait for its end")]
    Busy { path: PathBuf },
    #[error(
        "the state folder {path} holds no database; give --state-dir that of a coordinator (pg_dump copies jobs in PostgreSQL)"
    )]
    NoState { path: PathBuf },
    /// Nothing of the transaction is there, and nothing is written any more.
    #[error(
        "this coordinator leads no longer on {place}: {fault}; start it again, and it waits as a standby"
    )]
    Deposed { place: String, fault: String },
    #[error(
        "another coordinator may have begun to lead on {place} while this one removed an artifact: {fault}; whoever reads it and does not find it sends it again"
    )]
    Unheld { place: String, fault: String },
    #[error("{what} in the database cannot be read and is set aside: {fault}")]
    Unreadable { what: String, fault: String },
    #[error("{what} cannot be written as JSON: {source}")]
    Unwritable {
        what: String,
        source: serde_json::Error,
    },
    #[error("there is no configuration {name}{}", if *revision == 0 { String::new() } else { format!(" revision {revision}") })]
    NoConfig { name: String, revision: u64 },
}

impl StoreError {
    /// `qlora-ctl explain CODE` prints its meaning.
    pub fn code(&self) -> Code {
        match self {
            Self::InUse { .. } | Self::Taken { .. } | Self::Led { .. } => Code::StateInUse,
            Self::DiskFull { .. } | Self::ServerFull { .. } => Code::DiskFull,
            Self::Deposed { .. } => Code::Deposed,
            Self::NoDatabase { .. } | Self::DatabaseOption { .. } | Self::Unverified { .. } => {
                Code::DatabaseUrl
            }
            Self::Folder { source, .. } if Code::of_file(source) == Code::DiskFull => {
                Code::DiskFull
            }
            Self::Folder { .. }
            | Self::Read { .. }
            | Self::Damaged { .. }
            | Self::NotWritten { .. }
            | Self::Unsure { .. }
            | Self::ServerDamaged { .. }
            | Self::Unheld { .. }
            | Self::Newer { .. }
            | Self::Unreadable { .. }
            | Self::Unwritable { .. }
            | Self::NoState { .. }
            | Self::Moving { .. }
            | Self::Moved { .. }
            | Self::Busy { .. }
            | Self::NoConfig { .. } => Code::StateFolder,
        }
    }
}

/// The name of the database in the state folder.
pub(crate) const DATABASE: &str = "qlora.db";

/// SQLite's code for a disk without room.
const FULL: u32 = 13;
/// SQLite's codes for pages that cannot be what was written, and for a file that is no database.
const DAMAGED: [u32; 2] = [11, 26];

/// SQLite's primary code of a fault; the rest of the number tells the kind of it.
fn primary(source: &sqlx::Error) -> Option<u32> {
    let code: u32 = source.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

/// What a fault says. The database's own text would end with the line of the server's source.
pub(crate) fn said(source: &sqlx::Error) -> String {
    match source.as_database_error() {
        Some(fault) => fault.message().to_owned(),
        None => source.to_string(),
    }
}

/// A fault of the database that is no passing trouble; else the fault as it is.
fn unless_damaged(folder: &Path, source: sqlx::Error) -> Result<sqlx::Error, StoreError> {
    let said = match source.as_database_error() {
        Some(fault) if primary(&source).is_some_and(|code| DAMAGED.contains(&code)) => {
            fault.message().to_owned()
        }
        _ => return Ok(source),
    };
    Err(StoreError::Damaged {
        path: folder.join(DATABASE),
        fault: said,
    })
}

/// A read that failed.
pub(crate) fn not_read(folder: &Path) -> impl Fn(sqlx::Error) -> StoreError + '_ {
    move |source| match unless_damaged(folder, source) {
        Ok(source) => StoreError::Read {
            path: folder.into(),
            source,
        },
        Err(damaged) => damaged,
    }
}

/// A write that failed; nothing of its transaction is there.
pub(crate) fn not_written(folder: &Path) -> impl Fn(sqlx::Error) -> StoreError + '_ {
    move |source| {
        let path = folder.into();
        match unless_damaged(folder, source) {
            Ok(source) if primary(&source) == Some(FULL) => StoreError::DiskFull { path },
            Ok(source) => StoreError::NotWritten { path, source },
            Err(damaged) => damaged,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use sqlx::error::{DatabaseError, ErrorKind};

    use super::*;

    /// A fault as the driver of PostgreSQL shows it.
    #[derive(Debug, thiserror::Error)]
    #[error("terminating connection at line 948")]
    struct Told;

    impl DatabaseError for Told {
        fn message(&self) -> &str {
            "terminating connection"
        }

        fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
            self
        }

        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }
    }

    #[test]
    fn a_fault_of_the_server_ends_without_the_line_of_its_source() {
        let path = || "postgres://me@host:5432/jobs".into();
        let source = || sqlx::Error::Database(Box::new(Told));
        for fault in [
            StoreError::Read {
                path: path(),
                source: source(),
            },
            StoreError::NotWritten {
                path: path(),
                source: source(),
            },
        ] {
            let text = fault.to_string();
            assert!(text.ends_with(": terminating connection"), "{text}");
        }
    }
}
