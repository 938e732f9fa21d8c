//! Brings a database to the newest schema.

use std::path::Path;

use sqlx::sqlite::SqliteConnection;

use crate::error::{StoreError, not_read, not_written};

/// Every version of the schema, oldest first; the database counts those it has in `user_version`.
const MIGRATIONS: [&str; 7] = [
    include_str!("../../migrations/0001_start.sql"),
    include_str!("../../migrations/0002_counters.sql"),
    include_str!("../../migrations/0003_identity.sql"),
    include_str!("../../migrations/0004_drains.sql"),
    include_str!("../../migrations/0005_tokens.sql"),
    include_str!("../../migrations/0006_ended_jobs.sql"),
    include_str!("../../migrations/0007_links.sql"),
];

/// Takes all steps that are missing, or none.
pub(super) async fn migrate(
    folder: &Path,
    connection: &mut SqliteConnection,
) -> Result<(), StoreError> {
    let found: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut *connection)
        .await
        .map_err(not_read(folder))?;
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

/// Makes the row of `counters` anew out of what else tells of jobs and tokens. What only the row
/// told is not known, so tokens go on behind a margin of a million attempts.
const COUNTERS: &str = "
INSERT INTO counters (one, commits, job, token)
SELECT
    1,
    0,
    MAX(
        COALESCE((SELECT MAX(id) FROM jobs), 0),
        COALESCE((SELECT MAX(job) FROM logs), 0),
        COALESCE((SELECT MAX(job) FROM journal), 0)
    ),
    MAX(
        COALESCE((
            SELECT MAX(CAST(attempt.value ->> '$.token' AS INTEGER))
            FROM jobs, json_each(CASE WHEN json_valid(body) THEN body ELSE '{}' END, '$.attempts') AS attempt
            WHERE attempt.type = 'object'
        ), 0),
        COALESCE((SELECT MAX(token) FROM logs), 0)
    ) + (1000000 << 32)";

/// Puts the row of `counters` back where it is missing.
pub(super) async fn mend(
    folder: &Path,
    connection: &mut SqliteConnection,
) -> Result<(), StoreError> {
    let rows: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM counters")
        .fetch_one(&mut *connection)
        .await
        .map_err(not_read(folder))?;
    if rows > 0 {
        return Ok(());
    }
    sqlx::raw_sql(COUNTERS)
        .execute(connection)
        .await
        .map_err(not_written(folder))?;
    tracing::warn!(
        "the counters of the database in {} were missing; they go on behind those of its jobs",
        folder.display()
    );
    Ok(())
}
