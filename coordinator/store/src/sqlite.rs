//! SQLite in one file: write-ahead log, fsync on every commit.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use fs4::fs_std::FileExt;
use qlora_engine::{Job, JobId, JobSpec};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Row, Sqlite, Transaction};

use crate::error::StoreError;
use crate::records::{ConfigRevision, JobStore, JournalEntry, LogRecord, MetricRecord, Write};

/// The database `qlora.db` in a state folder.
pub struct SqliteStore {
    /// One connection: there is one writer, and it must not wait for itself.
    writer: SqlitePool,
    readers: SqlitePool,
    /// Held locked, so that no second coordinator opens the folder.
    _lock: File,
}

impl SqliteStore {
    /// Opens the database in `folder`, and makes both where they are missing.
    ///
    /// # Errors
    /// The folder cannot be written, another process uses it, or the database is damaged.
    pub async fn open(folder: &Path) -> Result<Self, StoreError> {
        let fault = |source| StoreError::Folder { path: folder.into(), source };
        fs::create_dir_all(folder).map_err(fault)?;
        let lock = File::create(folder.join("lock")).map_err(fault)?;
        if !FileExt::try_lock_exclusive(&lock).map_err(fault)? {
            return Err(StoreError::InUse { path: folder.into() });
        }
        let options = SqliteConnectOptions::new()
            .filename(folder.join("qlora.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let writer = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
        migrate(&writer).await?;
        let readers = SqlitePoolOptions::new().max_connections(4).connect_with(options.read_only(true)).await?;
        Ok(Self { writer, readers, _lock: lock })
    }
}

impl JobStore for SqliteStore {
    async fn apply(&self, writes: Vec<Write>) -> Result<Vec<JournalEntry>, StoreError> {
        let mut transaction = self.writer.begin().await?;
        let mut entries = Vec::new();
        for write in writes {
            match write {
                Write::SaveJob(job) => save_job(&mut transaction, &job).await?,
                Write::Metrics { job, points } => add_metrics(&mut transaction, job, points).await?,
                Write::Logs { job, lines } => add_logs(&mut transaction, job, lines).await?,
                Write::Journal(entry) => entries.push(add_entry(&mut transaction, entry).await?),
            }
        }
        transaction.commit().await?;
        Ok(entries)
    }

    async fn jobs(&self) -> Result<Vec<Job>, StoreError> {
        let rows = sqlx::query("SELECT id, spec, body FROM jobs ORDER BY id").fetch_all(&self.readers).await?;
        rows.iter().map(read_job).collect()
    }

    async fn metrics(&self, job: JobId, after: u64, limit: u32) -> Result<Vec<MetricRecord>, StoreError> {
        let rows =
            sqlx::query("SELECT seq, step, unix_ms, vals FROM metrics WHERE job = ? AND seq > ? ORDER BY seq LIMIT ?")
                .bind(job.0 as i64)
                .bind(after as i64)
                .bind(limit)
                .fetch_all(&self.readers)
                .await?;
        rows.iter().map(|row| read_metric(job, row)).collect()
    }

    async fn logs(&self, job: JobId, after: u64, limit: u32) -> Result<Vec<LogRecord>, StoreError> {
        let rows = sqlx::query(
            "SELECT seq, unix_ms, level, text, token FROM logs WHERE job = ? AND seq > ? ORDER BY seq LIMIT ?",
        )
        .bind(job.0 as i64)
        .bind(after as i64)
        .bind(limit)
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(read_log).collect()
    }

    async fn journal(&self, after: u64, limit: u32) -> Result<Vec<JournalEntry>, StoreError> {
        let rows =
            sqlx::query("SELECT seq, unix_ms, job, worker, kind, text FROM journal WHERE seq > ? ORDER BY seq LIMIT ?")
                .bind(after as i64)
                .bind(limit)
                .fetch_all(&self.readers)
                .await?;
        rows.iter().map(read_entry).collect()
    }

    async fn put_config(&self, name: &str, yaml: &str, hash: &str, unix_ms: u64) -> Result<ConfigRevision, StoreError> {
        let mut transaction = self.writer.begin().await?;
        let newest = sqlx::query("SELECT * FROM configs WHERE name = ? ORDER BY revision DESC LIMIT 1")
            .bind(name)
            .fetch_optional(&mut *transaction)
            .await?;
        let newest = newest.as_ref().map(read_config).transpose()?;
        if let Some(same) = newest.as_ref().filter(|c| c.hash == hash) {
            return Ok(same.clone());
        }
        let revision = newest.map_or(0, |c| c.revision) + 1;
        let made = ConfigRevision { name: name.into(), revision, yaml: yaml.into(), hash: hash.into(), unix_ms };
        sqlx::query("INSERT INTO configs (name, revision, yaml, hash, unix_ms) VALUES (?, ?, ?, ?, ?)")
            .bind(name)
            .bind(revision as i64)
            .bind(yaml)
            .bind(hash)
            .bind(unix_ms as i64)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(made)
    }

    async fn config(&self, name: &str, revision: u64) -> Result<ConfigRevision, StoreError> {
        let row = sqlx::query(
            "SELECT * FROM configs WHERE name = ?1 AND (?2 = 0 OR revision = ?2) ORDER BY revision DESC LIMIT 1",
        )
        .bind(name)
        .bind(revision as i64)
        .fetch_optional(&self.readers)
        .await?;
        row.as_ref().map(read_config).transpose()?.ok_or_else(|| StoreError::NoConfig { name: name.into(), revision })
    }

    async fn configs(&self, name: Option<&str>) -> Result<Vec<ConfigRevision>, StoreError> {
        let query = match name {
            Some(name) => sqlx::query("SELECT * FROM configs WHERE name = ? ORDER BY revision").bind(name),
            None => sqlx::query(
                "SELECT c.* FROM configs c WHERE revision = (SELECT MAX(revision) FROM configs WHERE name = c.name) ORDER BY name",
            ),
        };
        query.fetch_all(&self.readers).await?.iter().map(read_config).collect()
    }
}

/// Every version of the schema, oldest first; the database counts those it has in `user_version`.
const MIGRATIONS: [&str; 1] = [include_str!("../migrations/0001_start.sql")];

async fn migrate(writer: &SqlitePool) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    let found: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *transaction).await?;
    if found as usize > MIGRATIONS.len() {
        return Err(StoreError::Newer { found, known: MIGRATIONS.len() });
    }
    for (version, sql) in MIGRATIONS.into_iter().enumerate().skip(found as usize) {
        sqlx::raw_sql(sql).execute(&mut *transaction).await?;
        let stamp = sqlx::AssertSqlSafe(format!("PRAGMA user_version = {}", version + 1));
        sqlx::raw_sql(stamp).execute(&mut *transaction).await?;
    }
    Ok(transaction.commit().await?)
}

async fn save_job(transaction: &mut Transaction<'_, Sqlite>, job: &Job) -> Result<(), StoreError> {
    let (spec, body) = split(job)?;
    sqlx::query(
        "INSERT INTO jobs (id, spec, body) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
    )
    .bind(job.id.0 as i64)
    .bind(spec)
    .bind(body)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// The part of a job that never changes, and the rest.
fn split(job: &Job) -> Result<(String, String), StoreError> {
    let broken = |source| StoreError::Broken { what: format!("job {}", job.id), source };
    let spec = serde_json::to_string(&job.spec).map_err(broken)?;
    let mut body = serde_json::to_value(job).map_err(broken)?;
    if let Some(body) = body.as_object_mut() {
        body.remove("spec");
    }
    Ok((spec, body.to_string()))
}

fn read_job(row: &SqliteRow) -> Result<Job, StoreError> {
    let id: i64 = row.try_get("id")?;
    let broken = |source| StoreError::Broken { what: format!("job {id}"), source };
    let spec: JobSpec = serde_json::from_str(row.try_get("spec")?).map_err(broken)?;
    let mut body: serde_json::Value = serde_json::from_str(row.try_get("body")?).map_err(broken)?;
    body["spec"] = serde_json::to_value(spec).map_err(broken)?;
    serde_json::from_value(body).map_err(broken)
}

async fn next_seq(
    transaction: &mut Transaction<'_, Sqlite>,
    query: &'static str,
    job: JobId,
) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar(query).bind(job.0 as i64).fetch_one(&mut **transaction).await?)
}

async fn add_metrics(
    transaction: &mut Transaction<'_, Sqlite>,
    job: JobId,
    points: Vec<MetricRecord>,
) -> Result<(), StoreError> {
    let first = next_seq(transaction, "SELECT COALESCE(MAX(seq), 0) + 1 FROM metrics WHERE job = ?", job).await?;
    for (seq, point) in (first..).zip(points) {
        let values = serde_json::to_string(&point.values)
            .map_err(|source| StoreError::Broken { what: format!("metric of job {job}"), source })?;
        sqlx::query("INSERT INTO metrics (job, seq, step, unix_ms, vals) VALUES (?, ?, ?, ?, ?)")
            .bind(job.0 as i64)
            .bind(seq)
            .bind(point.step as i64)
            .bind(point.unix_ms as i64)
            .bind(values)
            .execute(&mut **transaction)
            .await?;
    }
    Ok(())
}

async fn add_logs(
    transaction: &mut Transaction<'_, Sqlite>,
    job: JobId,
    lines: Vec<LogRecord>,
) -> Result<(), StoreError> {
    let first = next_seq(transaction, "SELECT COALESCE(MAX(seq), 0) + 1 FROM logs WHERE job = ?", job).await?;
    for (seq, line) in (first..).zip(lines) {
        sqlx::query("INSERT INTO logs (job, seq, unix_ms, level, text, token) VALUES (?, ?, ?, ?, ?, ?)")
            .bind(job.0 as i64)
            .bind(seq)
            .bind(line.unix_ms as i64)
            .bind(line.level)
            .bind(line.text)
            .bind(line.token as i64)
            .execute(&mut **transaction)
            .await?;
    }
    Ok(())
}

async fn add_entry(transaction: &mut Transaction<'_, Sqlite>, entry: JournalEntry) -> Result<JournalEntry, StoreError> {
    let result = sqlx::query("INSERT INTO journal (unix_ms, job, worker, kind, text) VALUES (?, ?, ?, ?, ?)")
        .bind(entry.unix_ms as i64)
        .bind(entry.job.map(|j| j.0 as i64))
        .bind(entry.worker.clone())
        .bind(entry.kind.clone())
        .bind(entry.text.clone())
        .execute(&mut **transaction)
        .await?;
    Ok(JournalEntry { seq: result.last_insert_rowid() as u64, ..entry })
}

fn number(row: &SqliteRow, column: &str) -> Result<u64, StoreError> {
    Ok(row.try_get::<i64, _>(column)? as u64)
}

fn read_metric(job: JobId, row: &SqliteRow) -> Result<MetricRecord, StoreError> {
    let values: BTreeMap<String, f64> = serde_json::from_str(row.try_get("vals")?)
        .map_err(|source| StoreError::Broken { what: format!("metric of job {job}"), source })?;
    Ok(MetricRecord { seq: number(row, "seq")?, step: number(row, "step")?, unix_ms: number(row, "unix_ms")?, values })
}

fn read_log(row: &SqliteRow) -> Result<LogRecord, StoreError> {
    Ok(LogRecord {
        seq: number(row, "seq")?,
        unix_ms: number(row, "unix_ms")?,
        level: row.try_get("level")?,
        text: row.try_get("text")?,
        token: number(row, "token")?,
    })
}

fn read_entry(row: &SqliteRow) -> Result<JournalEntry, StoreError> {
    Ok(JournalEntry {
        seq: number(row, "seq")?,
        unix_ms: number(row, "unix_ms")?,
        job: row.try_get::<Option<i64>, _>("job")?.map(|id| JobId(id as u64)),
        worker: row.try_get("worker")?,
        kind: row.try_get("kind")?,
        text: row.try_get("text")?,
    })
}

fn read_config(row: &SqliteRow) -> Result<ConfigRevision, StoreError> {
    Ok(ConfigRevision {
        name: row.try_get("name")?,
        revision: number(row, "revision")?,
        yaml: row.try_get("yaml")?,
        hash: row.try_get("hash")?,
        unix_ms: number(row, "unix_ms")?,
    })
}
