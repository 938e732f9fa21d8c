//! Why state cannot be read or written.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the state folder {path} cannot be used: {source}")]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("another coordinator uses the state folder {path}; stop it, or give this one --state-dir")]
    InUse { path: PathBuf },
    #[error("the database fails: {0}")]
    Database(#[from] sqlx::Error),
    #[error("the database is of schema {found}, this program knows {known}; use the newer qlora-coordinator")]
    Newer { found: i64, known: usize },
    #[error("record {what} in the database cannot be read: {source}")]
    Broken { what: String, source: serde_json::Error },
    #[error("there is no configuration {name} revision {revision}")]
    NoConfig { name: String, revision: u64 },
}
