//! What a transaction can write.

use std::borrow::Cow;

use qlora_engine::{Drain, Job, JobId};

use super::briefs::save_briefs;
use super::fault::written;
use super::writer::Transaction;
use crate::bounds::{Thinning, superfluous};
use crate::error::StoreError;
use crate::records::{
    By, ConfigRevision, JournalEntry, LogRecord, MetricRecord, TokenRecord, Write,
};
use crate::rows;

const TRIM_JOURNAL: &str = "
DELETE FROM journal WHERE seq <= $1 AND (who IS NULL OR seq <= (
    SELECT seq FROM journal WHERE seq <= $1 AND who IS NOT NULL ORDER BY seq DESC LIMIT 1 OFFSET $2
))";

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
        Ok(entries)
    }

    /// A statement all of whose values are numbers.
    async fn numbers(&mut self, statement: &'static str, values: &[u64]) -> Result<(), StoreError> {
        let mut query = sqlx::query(statement);
        for &value in values {
            query = query.bind(value as i64);
        }
        let asked = query.execute(&mut self.connection);
        written(self.database, asked).await?;
        Ok(())
    }

    async fn save_job(&mut self, job: &Job) -> Result<(), StoreError> {
        let (spec, body) = rows::split(job)?;
        let id = job.id.0 as i64;
        let tokens = job.attempts.iter().map(|a| a.token.0 as i64);
        let token = tokens.max().unwrap_or(0);
        self.greatest = (self.greatest.0.max(id), self.greatest.1.max(token));
        let asked = sqlx::query(
            "INSERT INTO jobs (id, spec, body, state) VALUES ($1, $2, $3, $4)
             ON CONFLICT (id) DO UPDATE SET body = excluded.body, state = excluded.state",
        )
        .bind(id)
        .bind(spec)
        .bind(body)
        .bind(job.state.word())
        .execute(&mut self.connection);
        written(self.database, asked).await?;
        let asked = save_briefs(&mut self.connection, std::slice::from_ref(job));
        written(self.database, asked).await
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

    async fn next_seq(&mut self, query: &'static str, job: JobId) -> Result<i64, StoreError> {
        let asked = sqlx::query_scalar(query)
            .bind(job.0 as i64)
            .fetch_one(&mut self.connection);
        written(self.database, asked).await
    }

    /// All points travel in one statement: each one more would cost a way to the server and back.
    async fn add_metrics(
        &mut self,
        job: JobId,
        points: Vec<MetricRecord>,
    ) -> Result<(), StoreError> {
        let query = "SELECT COALESCE(MAX(seq), 0) + 1 FROM metrics WHERE job = $1";
        let first = self.next_seq(query, job).await?;
        let last = first + points.len() as i64 - 1;
        let values: Result<Vec<String>, StoreError> = points
            .iter()
            .map(|point| rows::values(job, point))
            .collect();
        let steps: Vec<i64> = points.iter().map(|point| point.step as i64).collect();
        let times: Vec<i64> = points.iter().map(|point| point.unix_ms as i64).collect();
        let asked = sqlx::query(
            "INSERT INTO metrics (job, seq, step, unix_ms, vals) SELECT $1::bigint, n.* FROM UNNEST($2::bigint[], $3::bigint[], $4::bigint[], $5::text[]) AS n",
        )
        .bind(job.0 as i64)
        .bind((first..=last).collect::<Vec<i64>>())
        .bind(steps)
        .bind(times)
        .bind(values?)
        .execute(&mut self.connection);
        written(self.database, asked).await?;
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

    /// All lines travel in one statement, as points do.
    async fn add_logs(&mut self, job: JobId, lines: Vec<LogRecord>) -> Result<(), StoreError> {
        let query = "SELECT COALESCE(MAX(seq), 0) + 1 FROM logs WHERE job = $1";
        let first = self.next_seq(query, job).await?;
        let last = first + lines.len() as i64 - 1;
        let text_of = |of: fn(&LogRecord) -> &str| -> Vec<String> {
            let texts = lines.iter().map(|line| writable(of(line)).into_owned());
            texts.collect()
        };
        let number_of = |of: fn(&LogRecord) -> u64| -> Vec<i64> {
            lines.iter().map(|line| of(line) as i64).collect()
        };
        let asked = sqlx::query(
            "INSERT INTO logs (job, seq, unix_ms, level, text, token) SELECT $1::bigint, n.* FROM UNNEST($2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::bigint[]) AS n",
        )
        .bind(job.0 as i64)
        .bind((first..=last).collect::<Vec<i64>>())
        .bind(number_of(|line| line.unix_ms))
        .bind(text_of(|line| &line.level))
        .bind(text_of(|line| &line.text))
        .bind(number_of(|line| line.token))
        .execute(&mut self.connection);
        written(self.database, asked).await?;
        match self.bounds.cut_log(first as u64, last as u64) {
            Some(until) => {
                let statement = "DELETE FROM logs WHERE job = $1 AND seq <= $2";
                self.numbers(statement, &[job.0, until]).await
            }
            None => Ok(()),
        }
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

    async fn add_entry(&mut self, entry: JournalEntry) -> Result<JournalEntry, StoreError> {
        self.journal += 1;
        let seq = self.journal as u64;
        let by = entry.by.as_ref();
        let of_by = |of: fn(&By) -> &str| by.map(|by| writable(of(by)).into_owned());
        let asked = sqlx::query(
            "INSERT INTO journal (seq, unix_ms, job, worker, kind, text, who, origin, act) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(self.journal)
        .bind(entry.unix_ms as i64)
        .bind(entry.job.map(|job| job.0 as i64))
        .bind(entry.worker.as_deref().map(|name| writable(name).into_owned()))
        .bind(writable(&entry.kind).into_owned())
        .bind(writable(&entry.text).into_owned())
        .bind(of_by(|by| &by.who))
        .bind(of_by(|by| &by.from))
        .bind(of_by(|by| &by.act))
        .execute(&mut self.connection);
        written(self.database, asked).await?;
        if let Some(until) = self.bounds.cut_journal(seq) {
            // No index is needed: before `until` little more lies than what the bound lets stay.
            self.numbers(TRIM_JOURNAL, &[until, self.bounds.asked])
                .await?;
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
            self.add_entry(made.entry(by)).await?;
        }
        Ok((made, true))
    }
}
