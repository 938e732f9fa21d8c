//! What a transaction can write.

use std::borrow::Cow;
use std::mem;

use qlora_engine::{Drain, JobId};

use super::fault::written;
use super::writer::Transaction;
use crate::bounds::{Thinning, superfluous};
use crate::error::StoreError;
use crate::records::{By, ConfigRevision, JournalEntry, MetricRecord, TokenRecord, Write};
use crate::rows;

/// PostgreSQL's texts hold every character but NUL: the symbol for it stands in, and is what is
/// looked for.
pub(super) fn writable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        text.replace('\0', "\u{2400}").into()
    } else {
        text.into()
    }
}

impl Transaction<'_> {
    /// Writes all of `writes`; returns the journal entries with their numbers.
    ///
    /// Rows of one kind go together. Only where records or jobs are removed does it matter what was
    /// written before.
    pub async fn apply(&mut self, writes: Vec<Write>) -> Result<Vec<JournalEntry>, StoreError> {
        let (mut jobs, mut entries) = (Vec::new(), Vec::new());
        let (mut points, mut lines) = (Vec::new(), Vec::new());
        for write in writes {
            if let Write::RemoveJob(_) | Write::RemoveRecords(_) = write {
                self.save_jobs(mem::take(&mut jobs)).await?;
                self.add_metrics(&mem::take(&mut points)).await?;
                self.add_logs(&mem::take(&mut lines)).await?;
            }
            match write {
                Write::SaveJob(job) => jobs.push(*job),
                Write::RemoveJob(job) => self.remove_job(job).await?,
                Write::RemoveRecords(job) => self.remove_records(job).await?,
                Write::Metrics { job, points: new } => {
                    points.extend(new.into_iter().map(|point| (job, point)));
                }
                Write::Logs { job, lines: new } => {
                    lines.extend(new.into_iter().map(|line| (job, line)));
                }
                Write::Journal(entry) => entries.push(entry),
                Write::SaveDrain { worker, drain } => self.save_drain(&worker, drain).await?,
                Write::AddToken(token) => self.add_token(&token).await?,
                Write::RevokeToken { id, unix_ms } => {
                    let statement =
                        "UPDATE tokens SET revoked = COALESCE(revoked, $1) WHERE id = $2";
                    self.numbers(statement, &[unix_ms, id]).await?;
                }
                Write::RemoveToken(id) => {
                    let statement = "DELETE FROM tokens WHERE id = $1";
                    self.numbers(statement, &[id]).await?;
                }
                Write::TokenUsed { id, day } => {
                    let statement =
                        "UPDATE tokens SET used_day = GREATEST(used_day, $1) WHERE id = $2";
                    self.numbers(statement, &[day, id]).await?;
                }
            }
        }
        self.save_jobs(jobs).await?;
        self.add_metrics(&points).await?;
        self.add_logs(&lines).await?;
        self.add_entries(entries).await
    }

    /// A statement all of whose values are numbers.
    pub(super) async fn numbers(
        &mut self,
        statement: &'static str,
        values: &[u64],
    ) -> Result<(), StoreError> {
        let mut query = sqlx::query(statement);
        for &value in values {
            query = query.bind(value as i64);
        }
        let asked = query.execute(&mut self.connection);
        written(self.database, asked).await?;
        Ok(())
    }

    async fn remove_job(&mut self, job: JobId) -> Result<(), StoreError> {
        for statement in [
            "DELETE FROM jobs WHERE id = $1",
            "DELETE FROM ended WHERE job = $1",
        ] {
            self.numbers(statement, &[job.0]).await?;
        }
        self.remove_records(job).await
    }

    async fn remove_records(&mut self, job: JobId) -> Result<(), StoreError> {
        for statement in [
            "DELETE FROM metrics WHERE job = $1",
            "DELETE FROM logs WHERE job = $1",
        ] {
            self.numbers(statement, &[job.0]).await?;
        }
        Ok(())
    }

    async fn save_drain(&mut self, worker: &str, drain: Option<Drain>) -> Result<(), StoreError> {
        let worker = writable(worker).into_owned();
        let statement = match drain {
            Some(Drain { since, reason }) => sqlx::query(
                "INSERT INTO drains (worker, unix_ms, reason) VALUES ($1, $2, $3) ON CONFLICT (worker) DO UPDATE SET unix_ms = excluded.unix_ms, reason = excluded.reason",
            )
            .bind(worker)
            .bind(since.0 as i64)
            .bind(writable(&reason).into_owned()),
            None => sqlx::query("DELETE FROM drains WHERE worker = $1").bind(worker),
        };
        let asked = statement.execute(&mut self.connection);
        written(self.database, asked).await?;
        Ok(())
    }

    pub(super) async fn thin(
        &mut self,
        job: JobId,
        Thinning { until, stretch }: Thinning,
    ) -> Result<(), StoreError> {
        let asked = sqlx::query(
            "SELECT seq, step, unix_ms, vals FROM metrics WHERE job = $1 AND seq <= $2 ORDER BY seq",
        )
        .bind(job.0 as i64)
        .bind(until as i64)
        .fetch_all(&mut self.connection);
        let found = written(self.database, asked).await?;
        let points: Vec<MetricRecord> = found.iter().map(|row| rows::metric(row).value).collect();
        let gone = superfluous(&points, stretch);
        let gone: Vec<i64> = gone.into_iter().map(|seq| seq as i64).collect();
        let asked = sqlx::query("DELETE FROM metrics WHERE job = $1 AND seq = ANY($2)")
            .bind(job.0 as i64)
            .bind(gone)
            .execute(&mut self.connection);
        written(self.database, asked).await?;
        Ok(())
    }

    async fn add_token(&mut self, token: &TokenRecord) -> Result<(), StoreError> {
        let asked = sqlx::query(
            "INSERT INTO tokens (id, name, role, hash, created, expires, revoked, used_day) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(token.id as i64)
        .bind(writable(&token.name).into_owned())
        .bind(writable(&token.role).into_owned())
        .bind(token.hash.clone())
        .bind(token.created_unix_ms as i64)
        .bind(token.expires_unix_ms.map(|at| at as i64))
        .bind(token.revoked_unix_ms.map(|at| at as i64))
        .bind(token.used_day.map(|day| day as i64))
        .execute(&mut self.connection);
        written(self.database, asked).await?;
        Ok(())
    }

    /// Makes the next revision of `made`'s name; the newest one, and false, where its text is the
    /// same.
    pub async fn put_config(
        &mut self,
        made: ConfigRevision,
        by: Option<By>,
    ) -> Result<(ConfigRevision, bool), StoreError> {
        let name = writable(&made.name).into_owned();
        let made = ConfigRevision { name, ..made };
        let asked =
            sqlx::query("SELECT * FROM configs WHERE name = $1 ORDER BY revision DESC LIMIT 1")
                .bind(made.name.clone())
                .fetch_optional(&mut self.connection);
        let newest = written(self.database, asked).await?;
        // One that cannot be read is another text than `made`.
        let readable = newest.as_ref().and_then(|row| rows::config(row).ok());
        if let Some(same) = readable.filter(|c| c.hash == made.hash) {
            return Ok((same, false));
        }
        let revision = newest.as_ref().map_or(0, rows::revision) + 1;
        let asked = sqlx::query(
            "INSERT INTO configs (name, revision, yaml, hash, unix_ms) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(made.name.clone())
        .bind(revision as i64)
        .bind(writable(&made.yaml).into_owned())
        .bind(made.hash.clone())
        .bind(made.unix_ms as i64)
        .execute(&mut self.connection);
        written(self.database, asked).await?;
        let made = ConfigRevision { revision, ..made };
        if let Some(by) = by {
            self.add_entries(vec![made.entry(by)]).await?;
        }
        Ok((made, true))
    }
}
