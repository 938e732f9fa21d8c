//! What a transaction can write.

use qlora_engine::{Drain, Job, JobId};

use super::briefs::save_brief;
use super::writer::Transaction;
use crate::bounds::{Thinning, superfluous};
use crate::error::{StoreError, not_written};
use crate::records::{
    By, ConfigRevision, JournalEntry, LogRecord, MetricRecord, TokenRecord, Write,
};
use crate::rows;

const TRIM_JOURNAL: &str = "
DELETE FROM journal WHERE seq <= ? AND (who IS NULL OR seq <= (
    SELECT seq FROM journal WHERE seq <= ? AND who IS NOT NULL ORDER BY seq DESC LIMIT 1 OFFSET ?
))";

impl Transaction<'_> {
    /// Writes all of `writes`; returns the journal entries with their numbers.
    pub async fn apply(&mut self, writes: Vec<Write>) -> Result<Vec<JournalEntry>, StoreError> {
        let mut entries = Vec::new();
        for write in writes {
            match write {
                Write::SaveJob(job) => self.save_job(&job).await?,
                Write::RemoveJob(job) => self.remove_job(job).await?,
                Write::RemoveRecords(job) => self.remove_records(job).await?,
                Write::Metrics { job, points } => self.add_metrics(job, points).await?,
                Write::Logs { job, lines } => self.add_logs(job, lines).await?,
                Write::Journal(entry) => entries.push(self.add_entry(entry).await?),
                Write::SaveDrain { worker, drain } => self.save_drain(&worker, drain).await?,
                Write::AddToken(token) => self.add_token(&token).await?,
                Write::RevokeToken { id, unix_ms } => {
                    let statement = "UPDATE tokens SET revoked = COALESCE(revoked, ?) WHERE id = ?";
                    self.change_token(statement, unix_ms, id).await?;
                }
                Write::RemoveToken(id) => self.remove_token(id).await?,
                Write::TokenUsed { id, day } => {
                    let statement =
                        "UPDATE tokens SET used_day = MAX(COALESCE(used_day, 0), ?) WHERE id = ?";
                    self.change_token(statement, day, id).await?;
                }
            }
        }
        Ok(entries)
    }

    async fn save_job(&mut self, job: &Job) -> Result<(), StoreError> {
        let (spec, body) = rows::split(job)?;
        let id = job.id.0 as i64;
        let token = job
            .attempts
            .iter()
            .map(|a| a.token.0 as i64)
            .max()
            .unwrap_or(0);
        self.greatest = (self.greatest.0.max(id), self.greatest.1.max(token));
        sqlx::query(
            "INSERT INTO jobs (id, spec, body, state) VALUES (?, ?, ?, ?)
             ON CONFLICT (id) DO UPDATE SET body = excluded.body, state = excluded.state",
        )
        .bind(id)
        .bind(spec)
        .bind(body)
        .bind(job.state.word())
        .execute(&mut self.connection)
        .await
        .map_err(not_written(self.folder))?;
        save_brief(&mut self.connection, job)
            .await
            .map_err(not_written(self.folder))
    }

    async fn remove_job(&mut self, job: JobId) -> Result<(), StoreError> {
        let of_job = [
            "DELETE FROM jobs WHERE id = ?",
            "DELETE FROM ended WHERE job = ?",
        ];
        self.delete(&of_job, job).await?;
        self.remove_records(job).await
    }

    async fn remove_records(&mut self, job: JobId) -> Result<(), StoreError> {
        let of_records = [
            "DELETE FROM metrics WHERE job = ?",
            "DELETE FROM logs WHERE job = ?",
        ];
        self.delete(&of_records, job).await
    }

    async fn delete(&mut self, statements: &[&'static str], job: JobId) -> Result<(), StoreError> {
        for statement in statements {
            sqlx::query(*statement)
                .bind(job.0 as i64)
                .execute(&mut self.connection)
                .await
                .map_err(not_written(self.folder))?;
        }
        Ok(())
    }

    async fn save_drain(&mut self, worker: &str, drain: Option<Drain>) -> Result<(), StoreError> {
        let statement = match drain {
            Some(Drain { since, reason }) => sqlx::query(
                "INSERT INTO drains (worker, unix_ms, reason) VALUES (?, ?, ?) ON CONFLICT (worker) DO UPDATE SET unix_ms = excluded.unix_ms, reason = excluded.reason",
            )
            .bind(worker)
            .bind(since.0 as i64)
            .bind(reason),
            None => sqlx::query("DELETE FROM drains WHERE worker = ?").bind(worker),
        };
        statement
            .execute(&mut self.connection)
            .await
            .map_err(not_written(self.folder))?;
        Ok(())
    }

    async fn next_seq(&mut self, query: &'static str, job: JobId) -> Result<i64, StoreError> {
        let found = sqlx::query_scalar(query)
            .bind(job.0 as i64)
            .fetch_one(&mut self.connection)
            .await;
        found.map_err(not_written(self.folder))
    }

    async fn add_metrics(
        &mut self,
        job: JobId,
        points: Vec<MetricRecord>,
    ) -> Result<(), StoreError> {
        let first = self
            .next_seq(
                "SELECT COALESCE(MAX(seq), 0) + 1 FROM metrics WHERE job = ?",
                job,
            )
            .await?;
        let last = first + points.len() as i64 - 1;
        for (seq, point) in (first..).zip(points) {
            let values = rows::values(job, &point)?;
            sqlx::query(
                "INSERT INTO metrics (job, seq, step, unix_ms, vals) VALUES (?, ?, ?, ?, ?)",
            )
            .bind(job.0 as i64)
            .bind(seq)
            .bind(point.step as i64)
            .bind(point.unix_ms as i64)
            .bind(values)
            .execute(&mut self.connection)
            .await
            .map_err(not_written(self.folder))?;
        }
        match self.bounds.thinning(first as u64, last as u64) {
            Some(thinning) => self.thin(job, thinning).await,
            None => Ok(()),
        }
    }

    async fn thin(
        &mut self,
        job: JobId,
        Thinning { until, stretch }: Thinning,
    ) -> Result<(), StoreError> {
        let found = sqlx::query(
            "SELECT seq, step, unix_ms, vals FROM metrics WHERE job = ? AND seq <= ? ORDER BY seq",
        )
        .bind(job.0 as i64)
        .bind(until as i64)
        .fetch_all(&mut self.connection)
        .await
        .map_err(not_written(self.folder))?;
        let points: Vec<MetricRecord> = found.iter().map(|row| rows::metric(row).value).collect();
        let gone = serde_json::Value::from(superfluous(&points, stretch)).to_string();
        sqlx::query(
            "DELETE FROM metrics WHERE job = ? AND seq IN (SELECT value FROM json_each(?))",
        )
        .bind(job.0 as i64)
        .bind(gone)
        .execute(&mut self.connection)
        .await
        .map_err(not_written(self.folder))?;
        Ok(())
    }

    async fn add_logs(&mut self, job: JobId, lines: Vec<LogRecord>) -> Result<(), StoreError> {
        let first = self
            .next_seq(
                "SELECT COALESCE(MAX(seq), 0) + 1 FROM logs WHERE job = ?",
                job,
            )
            .await?;
        let last = first + lines.len() as i64 - 1;
        for (seq, line) in (first..).zip(lines) {
            sqlx::query("INSERT INTO logs (job, seq, unix_ms, level, text, token) VALUES (?, ?, ?, ?, ?, ?)")
                .bind(job.0 as i64)
                .bind(seq)
                .bind(line.unix_ms as i64)
                .bind(line.level)
                .bind(line.text)
                .bind(line.token as i64)
                .execute(&mut self.connection)
                .await
                .map_err(not_written(self.folder))?;
        }
        if let Some(until) = self.bounds.cut_log(first as u64, last as u64) {
            sqlx::query("DELETE FROM logs WHERE job = ? AND seq <= ?")
                .bind(job.0 as i64)
                .bind(until as i64)
                .execute(&mut self.connection)
                .await
                .map_err(not_written(self.folder))?;
        }
        Ok(())
    }

    async fn add_token(&mut self, token: &TokenRecord) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO tokens (id, name, role, hash, created, expires, revoked, used_day) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(token.id as i64)
        .bind(&token.name)
        .bind(&token.role)
        .bind(&token.hash)
        .bind(token.created_unix_ms as i64)
        .bind(token.expires_unix_ms.map(|at| at as i64))
        .bind(token.revoked_unix_ms.map(|at| at as i64))
        .bind(token.used_day.map(|day| day as i64))
        .execute(&mut self.connection)
        .await
        .map_err(not_written(self.folder))?;
        Ok(())
    }

    async fn remove_token(&mut self, id: u64) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM tokens WHERE id = ?")
            .bind(id as i64)
            .execute(&mut self.connection)
            .await
            .map_err(not_written(self.folder))?;
        Ok(())
    }

    async fn change_token(
        &mut self,
        statement: &'static str,
        value: u64,
        id: u64,
    ) -> Result<(), StoreError> {
        sqlx::query(statement)
            .bind(value as i64)
            .bind(id as i64)
            .execute(&mut self.connection)
            .await
            .map_err(not_written(self.folder))?;
        Ok(())
    }

    async fn add_entry(&mut self, entry: JournalEntry) -> Result<JournalEntry, StoreError> {
        let result = sqlx::query(
            "INSERT INTO journal (unix_ms, job, worker, kind, text, who, origin, act) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(entry.unix_ms as i64)
        .bind(entry.job.map(|j| j.0 as i64))
        .bind(entry.worker.clone())
        .bind(entry.kind.clone())
        .bind(entry.text.clone())
        .bind(entry.by.as_ref().map(|by| by.who.clone()))
        .bind(entry.by.as_ref().map(|by| by.from.clone()))
        .bind(entry.by.as_ref().map(|by| by.act.clone()))
        .execute(&mut self.connection)
        .await
        .map_err(not_written(self.folder))?;
        let seq = result.last_insert_rowid() as u64;
        if let Some(until) = self.bounds.cut_journal(seq) {
            // No index is needed: before `until` little more lies than what the bound lets stay.
            sqlx::query(TRIM_JOURNAL)
                .bind(until as i64)
                .bind(until as i64)
                .bind(self.bounds.asked as i64)
                .execute(&mut self.connection)
                .await
                .map_err(not_written(self.folder))?;
        }
        Ok(JournalEntry { seq, ..entry })
    }

    /// Makes the next revision of `made`'s name; the newest one, and false, where its text is the
    /// same.
    pub async fn put_config(
        &mut self,
        made: ConfigRevision,
        by: Option<By>,
    ) -> Result<(ConfigRevision, bool), StoreError> {
        let newest =
            sqlx::query("SELECT * FROM configs WHERE name = ? ORDER BY revision DESC LIMIT 1")
                .bind(&made.name)
                .fetch_optional(&mut self.connection)
                .await
                .map_err(not_written(self.folder))?;
        // One that cannot be read is another text than `made`.
        let readable = newest.as_ref().and_then(|row| rows::config(row).ok());
        if let Some(same) = readable.filter(|c| c.hash == made.hash) {
            return Ok((same, false));
        }
        let revision = newest.as_ref().map_or(0, rows::revision) + 1;
        sqlx::query(
            "INSERT INTO configs (name, revision, yaml, hash, unix_ms) VALUES (?, ?, ?, ?, ?)",
        )
        .bind(&made.name)
        .bind(revision as i64)
        .bind(&made.yaml)
        .bind(&made.hash)
        .bind(made.unix_ms as i64)
        .execute(&mut self.connection)
        .await
        .map_err(not_written(self.folder))?;
        let made = ConfigRevision { revision, ..made };
        if let Some(by) = by {
            self.add_entry(made.entry(by)).await?;
        }
        Ok((made, true))
    }
}
