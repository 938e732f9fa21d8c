//! Brings a database to the newest schema.

use std::path::Path;

use sqlx::sqlite::SqliteConnection;

use crate::error::{StoreError, not_written};

/// Every version of the schema, oldest first; the database counts those it has in `user_version`.
const MIGRATIONS: [&str; 3] = [
    include_str!("../../migrations/0001_start.sql"),
    include_str!("../../migrations/0002_counters.sql"),
    include_str!("../../migrations/0003_identity.sql"),
];

/// Takes all steps that are missing, or none.
pub(super) async fn migrate(
    folder: &Path,
    connection: &mut SqliteConnection,
) -> Result<(), StoreError> {
    let found: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut *connection)
        .await
        .map_err(|source| StoreError::Read {
            path: folder.into(),
            source,
        })?;
    let version = usize::try_from(found).unwrap_or(usize::MAX);
    if version > MIGRATIONS.len() {
        return Err(StoreError::Newer {
            found,
            known: MIGRATIONS.len(),
        });
    }
    if version == MIGRATIONS.len() {
        return Ok(());
    }
    let steps = MIGRATIONS[version..].join("\n");
    let all = format!(
        "BEGIN IMMEDIATE;\n{steps}\nPRAGMA user_version = {};\nCOMMIT;",
        MIGRATIONS.len()
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(all))
        .execute(connection)
        .await
        .map_err(not_written(folder))?;
    Ok(())
}
