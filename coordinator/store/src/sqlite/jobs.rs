//! Jobs are read: those that have not ended and the ended ones in brief at a start, one, and pages.

use qlora_engine::{Ended, Job, JobId};
use sqlx::Row;
use sqlx::sqlite::{SqlitePool, SqliteRow};

use super::rows;
use crate::page::Wanted;
use crate::records::Stored;

/// Ended jobs that are read at one time.
const BRIEFS: i64 = 5000;

/// Jobs that have not ended, and those that cannot be read.
pub(super) async fn live(readers: &SqlitePool, stored: &mut Stored) -> Result<(), sqlx::Error> {
    let found = sqlx::query(
        "SELECT id, spec, body FROM jobs WHERE state IN ('', 'queued', 'running', 'paused') ORDER BY id",
    )
    .fetch_all(readers)
    .await?;
    for row in found {
        match rows::job(&row) {
            Ok(job) => match Ended::of(&job) {
                Some(ended) => stored.ended.push(ended),
                None => stored.jobs.push(job),
            },
            Err((unreadable, key)) => {
                let key = key.map(|key| (key, unreadable.job));
                stored.reserved.keys.extend(key);
                stored.unreadable.push(unreadable);
            }
        }
    }
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
        let briefs = row.try_get::<&str, _>("briefs");
        match briefs.map(serde_json::from_str::<Vec<Ended>>) {
            Ok(Ok(ended)) => stored.ended.extend(ended),
            // One of them cannot be read.
            Ok(Err(_)) | Err(_) => one_by_one(readers, (after, last), stored).await?,
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
    for row in found {
        let brief = row.try_get::<&str, _>("brief").ok();
        let brief = brief.and_then(|text| serde_json::from_str::<Ended>(text).ok());
        if let Some(ended) = brief {
            stored.ended.push(ended);
            continue;
        }
        match rows::job(&row) {
            Ok(job) => stored.ended.extend(Ended::of(&job)),
            Err((unreadable, key)) => {
                let key = key.map(|key| (key, unreadable.job));
                stored.reserved.keys.extend(key);
                stored.unreadable.push(unreadable);
            }
        }
    }
    Ok(())
}

/// The row of job `id`.
pub(super) async fn one(readers: &SqlitePool, id: i64) -> Result<Option<SqliteRow>, sqlx::Error> {
    sqlx::query("SELECT id, spec, body FROM jobs WHERE id = ?")
        .bind(id)
        .fetch_optional(readers)
        .await
}

/// Numbers of jobs that are `wanted`: of each state as many as a page has, and one more.
pub(super) async fn numbers(
    readers: &SqlitePool,
    wanted: &Wanted,
    before: i64,
) -> Result<Vec<JobId>, sqlx::Error> {
    let limit = i64::from(wanted.limit) + 1;
    let Some(states) = &wanted.states else {
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

/// A job, or its number and why it cannot be read.
pub(super) fn read(row: &SqliteRow) -> Result<Job, (JobId, String)> {
    rows::job(row).map_err(|(unreadable, _)| (unreadable.job, unreadable.fault))
}
