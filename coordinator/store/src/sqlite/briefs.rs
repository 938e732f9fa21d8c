//! What a start reads of each ended job.

use qlora_engine::Job;
use sqlx::Sqlite;
use sqlx::sqlite::SqliteConnection;

use super::bulk::{pieces, statement};
use crate::start::brief;

/// Writes what a coordinator has to know of those of `jobs` that have ended.
pub(super) async fn save_briefs<'a>(
    connection: &mut SqliteConnection,
    jobs: impl Iterator<Item = &'a Job>,
) -> Result<(), sqlx::Error> {
    let mut briefs = Vec::new();
    for job in jobs {
        let brief = brief(job).map_err(|e| sqlx::Error::Encode(e.into()))?;
        briefs.extend(brief.map(|brief| (job.id.0 as i64, brief)));
    }
    let around = (
        "INSERT INTO ended (job, brief) VALUES",
        "ON CONFLICT (job) DO UPDATE SET brief = excluded.brief",
    );
    for piece in pieces(&briefs) {
        let mut query = sqlx::query::<Sqlite>(statement(around, 2, piece.len()));
        for (job, brief) in piece {
            query = query.bind(job).bind(brief);
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}
