//! What a fault of the server means.

use super::database::Database;
use crate::error::{StoreError, said};

const DISK_FULL: &str = "53100";
/// A page of a table or of an index cannot be what was written.
const DAMAGED: [&str; 2] = ["XX001", "XX002"];
const NO_SUCH_TABLE: &str = "42P01";
/// The server is full of connections, stops, starts, or lost the one that asked; or somebody holds a
/// lock for a moment; or it is a replica that nobody has made the primary yet.
const PASSING: [&str; 5] = ["08", "25006", "53", "55", "57"];

fn code(source: &sqlx::Error) -> Option<String> {
    Some(source.as_database_error()?.code()?.into_owned())
}

/// Whether trying again may help: the server is away, and not wrongly asked.
pub(super) fn passes(source: &sqlx::Error) -> bool {
    match source {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Protocol(_) => true,
        other => {
            code(other).is_some_and(|code| PASSING.iter().any(|class| code.starts_with(class)))
        }
    }
}

/// Whether the table is missing: no coordinator has led here yet.
pub(super) fn is_new(source: &sqlx::Error) -> bool {
    code(source).is_some_and(|code| code == NO_SUCH_TABLE)
}

/// A fault that reads and writes have in common; else the fault as it is.
fn common(database: &Database, source: sqlx::Error) -> Result<sqlx::Error, StoreError> {
    let place = database.to_string();
    match code(&source).as_deref() {
        Some(DISK_FULL) => Err(StoreError::ServerFull { place }),
        Some(code) if DAMAGED.contains(&code) => Err(StoreError::ServerDamaged {
            place,
            fault: said(&source),
        }),
        _ => Ok(source),
    }
}

/// A read that failed.
pub(super) fn not_read(database: &Database) -> impl Fn(sqlx::Error) -> StoreError + '_ {
    move |source| match common(database, source) {
        Ok(source) => StoreError::Read {
            path: database.to_string().into(),
            source,
        },
        Err(known) => known,
    }
}

/// A write that failed; nothing of its transaction is there.
pub(super) fn not_written(database: &Database) -> impl Fn(sqlx::Error) -> StoreError + '_ {
    move |source| match common(database, source) {
        Ok(source) => StoreError::NotWritten {
            path: database.to_string().into(),
            source,
        },
        Err(known) => known,
    }
}

/// What the server answers to one statement that writes, or to what goes with one.
///
/// # Errors
/// It failed or is late; nothing of its transaction is there.
pub(super) async fn written<T>(
    database: &Database,
    asked: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, StoreError> {
    database.ask(asked).await.map_err(not_written(database))
}
