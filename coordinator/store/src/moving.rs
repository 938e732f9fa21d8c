//! Moves a coordinator from SQLite to PostgreSQL: every row, or none.
//!
//! Both databases have the same tables, but for their counters, which each keeps in its own way.
//! Rows are not looked into: what cannot be read in one database cannot be read in the other.

use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteRow;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;

use crate::error::StoreError;
use crate::postgres::PostgresStore;
use crate::rows::Columns;
use crate::sqlite::SqliteStore;
use crate::tables::{Chunk, Kind, TABLES, Table, Values};

/// Rows that travel together; a line of a log may have 64 KiB.
const ROWS: usize = 500;

/// What came of a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moved {
    /// Tables, and how many rows of each.
    Rows(Vec<(&'static str, u64)>),
    /// An earlier move has come to its end.
    Before,
}

/// Writes everything of `from` to `to`, which has to be empty, in one transaction. `from` stays as it
/// is. Then both are the same coordinator to workers, and only one of them may be served.
///
/// # Errors
/// `to` is another coordinator's, or one of the databases fails; then nothing is in `to`.
pub async fn move_all(from: &SqliteStore, to: &PostgresStore) -> Result<Moved, StoreError> {
    let identity = from.identity().await?;
    if to.is_of(&identity).await? {
        return Ok(Moved::Before);
    }
    let (sender, chunks) = mpsc::channel(1);
    let (rows, ()) = tokio::try_join!(to.take(identity, chunks), read(from, sender))?;
    Ok(Moved::Rows(rows))
}

/// Sends the rows of every table.
async fn read(from: &SqliteStore, chunks: mpsc::Sender<Chunk>) -> Result<(), StoreError> {
    for table in &TABLES {
        let select = format!("SELECT {} FROM {}", table.names(), table.name);
        let mut found = sqlx::query(AssertSqlSafe(select)).fetch(from.readers());
        let mut rows = Vec::with_capacity(ROWS);
        loop {
            let row = found.next().await.transpose();
            let row = row.map_err(|e| from.unread(e))?;
            let is_last = row.is_none();
            rows.extend(row);
            if rows.len() < ROWS && !is_last {
                continue;
            }
            // Who takes them has failed where it is gone, and says why.
            if !rows.is_empty() && chunks.send(chunk(table, &rows)).await.is_err() {
                return Ok(());
            }
            rows.clear();
            if is_last {
                break;
            }
        }
    }
    Ok(())
}

fn chunk(table: &'static Table, rows: &[SqliteRow]) -> Chunk {
    let columns = table.columns.iter().map(|(name, kind)| match kind {
        Kind::Number => Values::Numbers(rows.iter().map(|row| number(row, name)).collect()),
        Kind::Text => Values::Texts(rows.iter().map(|row| text(row, name)).collect()),
    });
    Chunk {
        table,
        rows: rows.len() as u64,
        columns: columns.collect(),
    }
}

/// The schema lets nothing but numbers in; what a damaged page has instead is as good as none.
fn number(row: &SqliteRow, name: &str) -> Option<i64> {
    row.number(name).ok().flatten()
}

/// What is no UTF-8 becomes as much of it as can be read, as it does wherever it is shown.
fn text(row: &SqliteRow, name: &str) -> Option<String> {
    row.text(name)
        .unwrap_or_else(|_| Some(String::from_utf8_lossy(&row.bytes(name)).into_owned()))
}
