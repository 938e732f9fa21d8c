//! Columns that were added after their rows are filled from what the rows hold.

use std::path::Path;

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::briefs::save_briefs;
use crate::error::{StoreError, not_written};
use crate::rows;

/// Rows of one transaction.
const ROWS: i64 = 1000;

/// Gives every job that has none its state, and ended ones their brief. One that cannot be read
/// stays as it is.
pub(super) async fn fill(
    folder: &Path,
    connection: &mut SqliteConnection,
) -> Result<(), StoreError> {
    let mut after = 0;
    loop {
        let found = page(connection, after).await.map_err(not_written(folder))?;
        let Some(last) = found.last() else {
            return Ok(());
        };
        after = rows::id(last);
        one_page(connection, &found)
            .await
            .map_err(not_written(folder))?;
    }
}

async fn page(
    connection: &mut SqliteConnection,
    after: i64,
) -> Result<Vec<SqliteRow>, sqlx::Error> {
    sqlx::query("SELECT id, spec, body FROM jobs WHERE state = '' AND id > ? ORDER BY id LIMIT ?")
        .bind(after)
        .bind(ROWS)
        .fetch_all(connection)
        .await
}

async fn one_page(
    connection: &mut SqliteConnection,
    found: &[SqliteRow],
) -> Result<(), sqlx::Error> {
    let readable: Vec<_> = found.iter().filter_map(|row| rows::job(row).ok()).collect();
    if readable.is_empty() {
        return Ok(());
    }
    sqlx::raw_sql("BEGIN IMMEDIATE")
        .execute(&mut *connection)
        .await?;
    for job in &readable {
        sqlx::query("UPDATE jobs SET state = ? WHERE id = ?")
            .bind(job.state.word())
            .bind(job.id.0 as i64)
            .execute(&mut *connection)
            .await?;
    }
    save_briefs(connection, readable.iter()).await?;
    sqlx::raw_sql("COMMIT").execute(connection).await?;
    Ok(())
}
