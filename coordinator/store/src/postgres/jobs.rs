//! Jobs are read: those that have not ended and the ended ones in brief at a start, one, and pages.

use qlora_engine::JobId;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::database::Readers;
use crate::page::JobQuery;
use crate::records::Stored;
use crate::rows::Columns;
use crate::start::{BRIEFS, add_briefs, add_ended, add_job};

/// Jobs that have not ended, and those that cannot be read.
pub(super) async fn live(readers: &Readers, stored: &mut Stored) -> Result<(), sqlx::Error> {
    let asked = sqlx::query(
        "SELECT id, spec, body FROM jobs WHERE state IN ('', 'queued', 'running', 'paused') ORDER BY id",
    )
    .fetch_all(&readers.pool);
    let found = readers.ask(asked).await?;
    found.iter().for_each(|row| add_job(row, stored));
    Ok(())
}

/// The ended jobs in brief, thousands of them in one row and on one way to the server and back.
pub(super) async fn ended(readers: &Readers, stored: &mut Stored) -> Result<(), sqlx::Error> {
    let mut after = 0;
    loop {
        let asked = sqlx::query(
            "SELECT MAX(job) AS last, '[' || STRING_AGG(brief, ',') || ']' AS briefs
             FROM (SELECT job, brief FROM ended WHERE job > $1 ORDER BY job LIMIT $2) AS page",
        )
        .bind(after)
        .bind(BRIEFS)
        .fetch_one(&readers.pool);
        let row = readers.ask(asked).await?;
        let Some(last) = row.try_get::<Option<i64>, _>("last")? else {
            return Ok(());
        };
        let briefs = row.text("briefs")?;
        if !briefs.is_some_and(|briefs| add_briefs(&briefs, stored)) {
            // One of them cannot be read.
            one_by_one(readers, (after, last), stored).await?;
        }
        after = last;
    }
}

/// The ended jobs behind number `after` up to `last`; where a brief cannot be read, the job tells.
async fn one_by_one(
    readers: &Readers,
    (after, last): (i64, i64),
    stored: &mut Stored,
) -> Result<(), sqlx::Error> {
    let asked = sqlx::query(
        "SELECT id, spec, body, brief FROM ended JOIN jobs ON id = job WHERE job > $1 AND job <= $2 ORDER BY job",
    )
    .bind(after)
    .bind(last)
    .fetch_all(&readers.pool);
    let found = readers.ask(asked).await?;
    found.iter().for_each(|row| add_ended(row, stored));
    Ok(())
}

/// The row of job `id`.
pub(super) async fn one(readers: &Readers, id: i64) -> Result<Option<PgRow>, sqlx::Error> {
    let asked = sqlx::query("SELECT id, spec, body FROM jobs WHERE id = $1")
        .bind(id)
        .fetch_optional(&readers.pool);
    readers.ask(asked).await
}

/// Numbers of jobs that `query` asks for: of each state as many as a page has, and one more.
pub(super) async fn numbers(
    readers: &Readers,
    query: &JobQuery,
    before: i64,
) -> Result<Vec<JobId>, sqlx::Error> {
    let limit = i64::from(query.limit) + 1;
    let statement = match &query.states {
        None => sqlx::query_scalar("SELECT id FROM jobs WHERE id < $1 ORDER BY id DESC LIMIT $2")
            .bind(before)
            .bind(limit),
        // The index has the jobs of each state in their order, and not those of several.
        Some(states) => sqlx::query_scalar(
            "SELECT found.id FROM UNNEST($3::text[]) AS wanted (state) CROSS JOIN LATERAL (
                SELECT id FROM jobs WHERE jobs.state = wanted.state AND id < $1 ORDER BY id DESC LIMIT $2
            ) AS found",
        )
        .bind(before)
        .bind(limit)
        .bind(states.clone()),
    };
    let found: Vec<i64> = readers.ask(statement.fetch_all(&readers.pool)).await?;
    Ok(found.into_iter().map(|id| JobId(id as u64)).collect())
}

/// The rows of the jobs `ids`, newest first.
pub(super) async fn rows_of(readers: &Readers, ids: &[JobId]) -> Result<Vec<PgRow>, sqlx::Error> {
    let ids: Vec<i64> = ids.iter().map(|id| id.0 as i64).collect();
    let asked = sqlx::query("SELECT id, spec, body FROM jobs WHERE id = ANY($1) ORDER BY id DESC")
        .bind(ids)
        .fetch_all(&readers.pool);
    readers.ask(asked).await
}
