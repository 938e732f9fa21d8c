//! Brings a database to the newest schema; only who holds its lock does.

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::database::Database;
use super::fault::{not_read, not_written, written};
use crate::error::StoreError;

/// Every version of the schema, oldest first.
const MIGRATIONS: [&str; 3] = [
    include_str!("../../migrations/postgres/0001_start.sql"),
    include_str!("../../migrations/postgres/0002_ended_jobs.sql"),
    include_str!("../../migrations/postgres/0003_links.sql"),
];

/// The database counts the versions that it has.
const VERSION: &str = "
CREATE SCHEMA IF NOT EXISTS qlora;
CREATE TABLE IF NOT EXISTS version (one INTEGER PRIMARY KEY CHECK (one = 1), number BIGINT NOT NULL);
INSERT INTO version (one, number) VALUES (1, 0) ON CONFLICT DO NOTHING";

/// Takes all steps that are missing, or none.
pub(super) async fn migrate(
    database: &Database,
    session: &mut PgConnection,
) -> Result<(), StoreError> {
    let asked = sqlx::raw_sql(VERSION).execute(&mut *session);
    written(database, asked).await?;
    let asked = sqlx::query_scalar("SELECT number FROM version").fetch_one(&mut *session);
    let found: i64 = database.ask(asked).await.map_err(not_read(database))?;
    let known = MIGRATIONS.len();
    let version = usize::try_from(found).unwrap_or(usize::MAX);
    if version > known {
        return Err(StoreError::Newer { found, known });
    }
    if version == known {
        return Ok(());
    }
    let steps = MIGRATIONS[version..].join("\n");
    // Statements that are sent together are one transaction.
    let all = format!("{steps}\nUPDATE version SET number = {known};");
    database
        .ask_to_migrate(sqlx::raw_sql(AssertSqlSafe(all)).execute(session))
        .await
        .map_err(not_written(database))?;
    Ok(())
}
