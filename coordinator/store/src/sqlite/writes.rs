//! What a transaction can write.

use std::collections::{BTreeMap, HashMap};

use qlora_engine::{Drain, Job, JobId};
use sqlx::Sqlite;

use super::briefs::save_briefs;
use super::bulk::{pieces, statement};
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
    ///
    /// Rows of one kind go together. Only where records or jobs are removed does it matter what was
    /// written before.
    pub async fn apply(&mut self, writes: Vec<Write>) -> Result<Vec<JournalEntry>, StoreError> {
        let (mut jobs, mut points, mut entries) = (Vec::new(), Vec::new(), Vec::new());
        for write in writes {
            if let Write::RemoveJob(_) | Write::RemoveRecords(_) = write {
                self.save_jobs(std::mem::take(&mut jobs)).await?;
                self.add_metrics(std::mem::take(&mut points)).await?;
            }
            match write {
                Write::SaveJob(job) => jobs.push(*job),
                Write::RemoveJob(job) => self.remove_job(job).await?,
                Write::RemoveRecords(job) => self.remove_records(job).await?,
                Write::Metrics { job, points: new } => {
                    points.extend(new.into_iter().map(|point| (job, point)));
                }
                Write::Logs { job, lines } => self.add_logs(job, lines).await?,
                Write::Journal(entry) => entries.push(entry),
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
        self.save_jobs(jobs).await?;
        self.add_metrics(points).await?;
        self.add_entries(entries).await
    }

    async fn save_jobs(&mut self, jobs: Vec<Job>) -> Result<(), StoreError> {
        let around = (
            "INSERT INTO jobs (id, spec, body, state) VALUES",
            "ON CONFLICT (id) DO UPDATE SET body = excluded.body, state = excluded.state",
        );
        for piece in pieces(&jobs) {
            let mut query = sqlx::query::<Sqlite>(statement(around, 4, piece.len()));
            for job in piece {
                let (spec, body) = rows::split(job)?;
                let (id, state) = (job.id.0 as i64, job.state.word());
                query = query.bind(id).bind(spec).bind(body).bind(state);
            }
            query
                .execute(&mut self.connection)
                .await
                .map_err(not_written(self.folder))?;
        }
        let job = jobs.iter().map(|job| job.id.0 as i64);
        let attempts = jobs.iter().flat_map(|job| &job.attempts);
        let token = attempts.map(|attempt| attempt.token.0 as i64);
        self.greatest = (
            job.fold(self.greatest.0, i64::max),
            token.fold(self.greatest.1, i64::max),
        );
        save_briefs(&mut self.connection, jobs.iter())
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

    async fn add_metrics(&mut self, points: Vec<(JobId, MetricRecord)>) -> Result<(), StoreError> {
        // Those of a piece are numbered behind what is there when it is written.
        let around = (
            "INSERT INTO metrics (job, seq, step, unix_ms, vals)
             SELECT column1, column2 + COALESCE((SELECT MAX(seq) FROM metrics WHERE job = column1), 0),
                    column3, column4, column5
             FROM (VALUES",
            ") RETURNING job, seq",
        );
        let mut added: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
        for piece in pieces(&points) {
            let mut query = sqlx::query_as::<Sqlite, (i64, i64)>(statement(around, 5, piece.len()));
            let mut places: HashMap<JobId, i64> = HashMap::new();
            for (job, point) in piece {
                let place = places.entry(*job).or_default();
                *place += 1;
                query = query.bind(job.0 as i64).bind(*place);
                query = query.bind(point.step as i64).bind(point.unix_ms as i64);
                query = query.bind(rows::values(*job, point)?);
            }
            let found = query
                .fetch_all(&mut self.connection)
                .await
                .map_err(not_written(self.folder))?;
            for (job, seq) in found {
                let (first, last) = added.entry(job).or_insert((seq, seq));
                (*first, *last) = (seq.min(*first), seq.max(*last));
            }
        }
        for (job, (first, last)) in added {
            if let Some(thinning) = self.bounds.thinning(first as u64, last as u64) {
                self.thin(JobId(job as u64), thinning).await?;
            }
        }
        Ok(())
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

    async fn add_entries(
        &mut self,
        entries: Vec<JournalEntry>,
    ) -> Result<Vec<JournalEntry>, StoreError> {
        let around = (
            "INSERT INTO journal (unix_ms, job, worker, kind, text, who, origin, act) VALUES",
            "",
        );
        let mut numbers = Vec::with_capacity(entries.len());
        for piece in pieces(&entries) {
            let mut query = sqlx::query::<Sqlite>(statement(around, 8, piece.len()));
            for entry in piece {
                let by = entry.by.as_ref();
                query = query
                    .bind(entry.unix_ms as i64)
                    .bind(entry.job.map(|job| job.0 as i64))
                    .bind(&entry.worker)
                    .bind(&entry.kind)
                    .bind(&entry.text)
                    .bind(by.map(|by| &by.who))
                    .bind(by.map(|by| &by.from))
                    .bind(by.map(|by| &by.act));
            }
            let result = query
                .execute(&mut self.connection)
                .await
                .map_err(not_written(self.folder))?;
            // Rows of one statement are numbered one after another.
            let first = result.last_insert_rowid() as u64 + 1 - piece.len() as u64;
            numbers.extend((first..).take(piece.len()));
        }
        let cuts = numbers
            .iter()
            .filter_map(|&seq| self.bounds.cut_journal(seq));
        let until = cuts.max();
        if let Some(until) = until {
            // No index is needed: before `until` little more lies than what the bound lets stay.
            sqlx::query(TRIM_JOURNAL)
                .bind(until as i64)
                .bind(until as i64)
                .bind(self.bounds.asked as i64)
                .execute(&mut self.connection)
                .await
                .map_err(not_written(self.folder))?;
        }
        let numbered = |(seq, entry)| JournalEntry { seq, ..entry };
        Ok(numbers.into_iter().zip(entries).map(numbered).collect())
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
            self.add_entries(vec![made.entry(by)]).await?;
        }
        Ok((made, true))
    }
}
