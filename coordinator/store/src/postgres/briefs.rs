//! What a start reads of each ended job.

use qlora_engine::Job;
use sqlx::postgres::PgConnection;

use crate::start::brief;

/// Writes what a start reads of those of `jobs` that have ended.
pub(super) async fn save_briefs<'a>(
    session: &mut PgConnection,
    jobs: impl Iterator<Item = &'a Job>,
) -> Result<(), sqlx::Error> {
    let (mut ids, mut briefs) = (Vec::new(), Vec::new());
    for job in jobs {
        if let Some(brief) = brief(job).map_err(|e| sqlx::Error::Encode(e.into()))? {
            ids.push(job.id.0 as i64);
            briefs.push(brief);
        }
    }
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO ended (job, brief) SELECT * FROM UNNEST($1::bigint[], $2::text[])
         ON CONFLICT (job) DO UPDATE SET brief = excluded.brief",
    )
    .bind(ids)
    .bind(briefs)
    .execute(session)
    .await?;
    Ok(())
}
