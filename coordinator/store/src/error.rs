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
    #[error("the database in {path} cannot be read: {source}")]
    Read { path: PathBuf, source: sqlx::Error },
    /// Nothing of the transaction is there.
    #[error("the disk of the state folder {path} is full; free space there")]
    DiskFull { path: PathBuf },
    /// Nothing of the transaction is there.
    #[error("the database in {path} cannot be written: {source}")]
    NotWritten { path: PathBuf, source: sqlx::Error },
    /// What is durable must be read anew before anything else is done.
    #[error("whether the last change to the database in {path} is durable is not known: {fault}")]
    Unsure { path: PathBuf, fault: String },
    #[error(
        "the database is of schema {found}, this program knows {known}; use the newer qlora-coordinator"
    )]
    Newer { found: i64, known: usize },
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
            Self::InUse { .. } => Code::StateInUse,
            Self::DiskFull { .. } => Code::DiskFull,
            Self::Folder { source, .. } if Code::of_file(source) == Code::DiskFull => {
                Code::DiskFull
            }
            Self::Folder { .. }
            | Self::Read { .. }
            | Self::NotWritten { .. }
            | Self::Unsure { .. }
            | Self::Newer { .. }
            | Self::Unreadable { .. }
            | Self::Unwritable { .. }
            | Self::NoConfig { .. } => Code::StateFolder,
        }
    }
}

/// SQLite's code for a disk without room.
const FULL: &str = "13";

/// A write that failed; nothing of its transaction is there.
pub(crate) fn not_written(folder: &Path) -> impl Fn(sqlx::Error) -> StoreError + '_ {
    move |source| {
        let path = folder.into();
        let full = source
            .as_database_error()
            .and_then(|e| e.code())
            .is_some_and(|code| code == FULL);
        if full {
            StoreError::DiskFull { path }
        } else {
            StoreError::NotWritten { path, source }
        }
    }
}
