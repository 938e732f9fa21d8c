//! What a start reads of each ended job.

use qlora_engine::Job;
use sqlx::sqlite::SqliteConnection;

use crate::start::brief;

/// Writes what a coordinator has to know of `job` once it has ended.
pub(super) async fn save_brief(
    connection: &mut SqliteConnection,
    job: &Job,
) -> Result<(), sqlx::Error> {
    let Some(brief) = brief(job).map_err(|e| sqlx::Error::Encode(e.into()))? else {
        return Ok(());
    };
    sqlx::query(
        "INSERT INTO ended (job, brief) VALUES (?, ?) ON CONFLICT (job) DO UPDATE SET brief = excluded.brief",
    )
    .bind(job.id.0 as i64)
    .bind(brief)
    .execute(connection)
    .await?;
    Ok(())
}
