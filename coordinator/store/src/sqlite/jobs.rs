//! Jobs are read: those that have not ended and the ended ones in brief at a start, one, and pages.

use qlora_engine::JobId;
use sqlx::Row;
use sqlx::sqlite::{SqlitePool, SqliteRow};

use crate::page::JobQuery;
use crate::records::Stored;
use crate::rows::Columns;
use crate::start::{BRIEFS, add_briefs, add_ended, add_job};

/// Jobs that have not ended, and those that cannot be read.
pub(super) async fn live(readers: &SqlitePool, stored: &mut Stored) -> Result<(), sqlx::Error> {
    let found = sqlx::query(
        "SELECT id, spec, body FROM jobs WHERE state IN ('', 'queued', 'running', 'paused') ORDER BY id",
    )
    .fetch_all(readers)
    .await?;
    found.iter().for_each(|row| add_job(row, stored));
    Ok(())
}

/// The ended jobs in brief. Thousands of them are one row to the library, which takes its time for
/// each.
pub(super) async fn ended(readers: &SqlitePool, stored: &mut Stored) -> Result<(), sqlx::Error> {
    let mut after = 0;
    loop {
        let row = sqlx::query(
            "SELECT MAX(job) AS last, '[' || group_concat(brief) || ']' AS briefs
             FROM (SELECT job, brief FROM ended WHERE job > ? ORDER BY job LIMIT ?)",
        )
        .bind(after)
        .bind(BRIEFS)
        .fetch_one(readers)
        .await?;
        let Some(last) = row.try_get::<Option<i64>, _>("last")? else {
            return Ok(());
        };
        let briefs = row.text("briefs").ok().flatten();
        if !briefs.is_some_and(|briefs| add_briefs(&briefs, stored)) {
            // One of them cannot be read.
            one_by_one(readers, (after, last), stored).await?;
        }
        after = last;
    }
}

/// The ended jobs behind number `after` up to `last`; where a brief cannot be read, the job tells.
async fn one_by_one(
    readers: &SqlitePool,
    (after, last): (i64, i64),
    stored: &mut Stored,
) -> Result<(), sqlx::Error> {
    let found = sqlx::query(
        "SELECT id, spec, body, brief FROM ended JOIN jobs ON id = job WHERE job > ? AND job <= ? ORDER BY job",
    )
    .bind(after)
    .bind(last)
    .fetch_all(readers)
    .await?;
    found.iter().for_each(|row| add_ended(row, stored));
    Ok(())
}

/// The row of job `id`.
pub(super) async fn one(readers: &SqlitePool, id: i64) -> Result<Option<SqliteRow>, sqlx::Error> {
    sqlx::query("SELECT id, spec, body FROM jobs WHERE id = ?")
        .bind(id)
        .fetch_optional(readers)
        .await
}

/// Numbers of jobs that `query` asks for: of each state as many as a page has, and one more.
pub(super) async fn numbers(
    readers: &SqlitePool,
    query: &JobQuery,
    before: i64,
) -> Result<Vec<JobId>, sqlx::Error> {
    let limit = i64::from(query.limit) + 1;
    let Some(states) = &query.states else {
        let found: Vec<i64> =
            sqlx::query_scalar("SELECT id FROM jobs WHERE id < ? ORDER BY id DESC LIMIT ?")
                .bind(before)
                .bind(limit)
                .fetch_all(readers)
                .await?;
        return Ok(found.into_iter().map(|id| JobId(id as u64)).collect());
    };
    let mut all = Vec::new();
    // One state at a time: the index has the jobs of each in their order, and not those of several.
    for state in states {
        let found: Vec<i64> = sqlx::query_scalar(
            "SELECT id FROM jobs WHERE state = ? AND id < ? ORDER BY id DESC LIMIT ?",
        )
        .bind(*state)
        .bind(before)
        .bind(limit)
        .fetch_all(readers)
        .await?;
        all.extend(found.into_iter().map(|id| JobId(id as u64)));
    }
    Ok(all)
}

/// The rows of the jobs `ids`, newest first.
pub(super) async fn rows_of(
    readers: &SqlitePool,
    ids: &[JobId],
) -> Result<Vec<SqliteRow>, sqlx::Error> {
    let ids: Vec<u64> = ids.iter().map(|id| id.0).collect();
    sqlx::query(
        "SELECT id, spec, body FROM jobs WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id DESC",
    )
    .bind(serde_json::Value::from(ids).to_string())
    .fetch_all(readers)
    .await
}
