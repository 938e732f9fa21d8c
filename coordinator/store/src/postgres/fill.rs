//! Columns that were added after their rows are filled from what the rows hold.

use qlora_engine::Job;
use sqlx::postgres::{PgConnection, PgRow};

use super::briefs::save_briefs;
use super::database::Database;
use crate::rows;

/// Rows of one transaction.
const ROWS: i64 = 1000;

/// Gives every job that has none its state, and ended ones their brief. One that cannot be read
/// stays as it is. `session` holds the lock, and its transactions end with it.
pub(super) async fn fill(
    database: &Database,
    session: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    let mut after = 0;
    loop {
        let found = database.ask(page(session, after)).await?;
        let Some(last) = found.last() else {
            return Ok(());
        };
        after = rows::id(last);
        database.ask(one_page(session, &found)).await?;
    }
}

async fn page(session: &mut PgConnection, after: i64) -> Result<Vec<PgRow>, sqlx::Error> {
    sqlx::query("SELECT id, spec, body FROM jobs WHERE state = '' AND id > $1 ORDER BY id LIMIT $2")
        .bind(after)
        .bind(ROWS)
        .fetch_all(session)
        .await
}

async fn one_page(session: &mut PgConnection, found: &[PgRow]) -> Result<(), sqlx::Error> {
    let readable: Vec<Job> = found.iter().filter_map(|row| rows::job(row).ok()).collect();
    if readable.is_empty() {
        return Ok(());
    }
    sqlx::raw_sql("BEGIN").execute(&mut *session).await?;
    save_states(session, &readable).await?;
    save_briefs(session, readable.iter()).await?;
    sqlx::raw_sql("COMMIT").execute(session).await?;
    Ok(())
}

async fn save_states(session: &mut PgConnection, jobs: &[Job]) -> Result<(), sqlx::Error> {
    let ids: Vec<i64> = jobs.iter().map(|job| job.id.0 as i64).collect();
    let states: Vec<&str> = jobs.iter().map(|job| job.state.word()).collect();
    sqlx::query(
        "UPDATE jobs SET state = n.state FROM UNNEST($1::bigint[], $2::text[]) AS n (id, state) WHERE jobs.id = n.id",
    )
    .bind(ids)
    .bind(states)
    .execute(session)
    .await?;
    Ok(())
}
