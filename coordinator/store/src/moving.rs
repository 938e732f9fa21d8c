//! Moves a coordinator from SQLite to PostgreSQL: every row, or none.
//!
//! Both databases have the same tables, but for their counters, which each keeps in its own way.
//! Rows are not looked into: what cannot be read in one database cannot be read in the other.

use std::mem;

use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteRow;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;

use crate::error::StoreError;
use crate::postgres::PostgresStore;
use crate::rows::Columns;
use crate::set_aside::SetAside;
use crate::tables::{Chunk, TABLES, Values};

/// Rows that travel together, at the most.
const ROWS: u64 = 500;
/// Bytes of their texts, about: a slow way must not take the server for one that stands still.
const BYTES: usize = 1 << 20;

/// What came of a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moved {
    /// Tables, and how many rows of each.
    Rows(Vec<(&'static str, u64)>),
    /// An earlier move has come to its end.
    Before,
}

/// Writes everything of `from` to `to`, which has to be empty, in one transaction. Then both are the
/// same coordinator to workers, and only `to` may be served.
///
/// # Errors
/// `to` is another coordinator's, or one of the databases fails. Nothing is in `to` then, unless the
/// error is [`StoreError::Unsure`].
pub async fn move_all(from: &SetAside, to: &PostgresStore) -> Result<Moved, StoreError> {
    let identity = from.identity().await?;
    if to.is_of(&identity).await? {
        return Ok(Moved::Before);
    }
    let (sender, chunks) = mpsc::channel(1);
    let (rows, ()) = tokio::try_join!(to.take(identity, chunks), read(from, sender))?;
    Ok(Moved::Rows(rows))
}

/// Sends the rows of every table, and then nothing.
async fn read(from: &SetAside, chunks: mpsc::Sender<Option<Chunk>>) -> Result<(), StoreError> {
    for table in &TABLES {
        let select = format!("SELECT {} FROM {}", table.names(), table.name);
        let mut found = sqlx::query(AssertSqlSafe(select)).fetch(from.rows());
        let (mut chunk, mut bytes) = (Chunk::of(table), 0);
        while let Some(row) = found.next().await {
            let row = row.map_err(|e| from.unread(e))?;
            bytes += add(&row, &mut chunk);
            if chunk.rows < ROWS && bytes < BYTES {
                continue;
            }
            let full = mem::replace(&mut chunk, Chunk::of(table));
            bytes = 0;
            if chunks.send(Some(full)).await.is_err() {
                // Who takes them has failed, and says why.
                return Ok(());
            }
        }
        if chunk.rows > 0 && chunks.send(Some(chunk)).await.is_err() {
            return Ok(());
        }
    }
    let _ = chunks.send(None).await;
    Ok(())
}

/// Adds `row`; the bytes of its texts.
fn add(row: &SqliteRow, chunk: &mut Chunk) -> usize {
    let mut bytes = 0;
    chunk.rows += 1;
    for ((name, _), values) in chunk.table.columns.iter().zip(&mut chunk.columns) {
        match values {
            Values::Numbers(numbers) => numbers.push(number(row, name)),
            Values::Texts(texts) => {
                let text = text(row, name);
                bytes += text.as_ref().map_or(0, String::len);
                texts.push(text);
            }
        }
    }
    bytes
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
