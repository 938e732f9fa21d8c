//! The database, as long as this process leads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use qlora_engine::{Job, JobId};
use sqlx::postgres::PgPool;

use super::database::{Database, Readers};
use super::fault::not_read;
use super::holding::hold;
use super::jobs;
use super::leadership::{Leadership, Watched};
use super::writer::{Transaction, Writer};
use super::writes::writable;
use crate::bounds::Bounds;
use crate::error::{StoreError, said};
use crate::named::{Named, mark_told};
use crate::page::{JobQuery, Page};
use crate::records::{
    By, ConfigRevision, JobStore, JournalEntry, LogRecord, MetricRecord, Stored, TokenRecord,
    Unreadable, Write,
};
use crate::rows;

/// Jobs and all that belongs to them, of whoever leads.
pub struct PostgresStore {
    database: Arc<Database>,
    writer: Writer,
    readers: Readers,
    leadership: Leadership,
    /// Bytes of the database when they were asked for last.
    size: Arc<AtomicU64>,
    named: Named,
    /// Holds the lock until the store is dropped.
    _watched: Watched,
}

impl PostgresStore {
    pub(super) async fn new(
        database: &Arc<Database>,
        bounds: Bounds,
        leadership: Leadership,
        watched: Watched,
    ) -> Result<Self, StoreError> {
        let readers = database.readers();
        let store = Self {
            database: database.clone(),
            writer: Writer::new(database.clone(), leadership.clone(), bounds),
            readers,
            leadership,
            size: Arc::default(),
            named: Named::default(),
            _watched: watched,
        };
        let size = size(&store.readers).await.map_err(|e| store.unread(e))?;
        store.size.store(size, Relaxed);
        Ok(store)
    }

    /// Returns once this process leads no more, and why: from then on it writes nothing.
    pub async fn lost(&self) -> StoreError {
        self.leadership.lost().await
    }

    pub(super) async fn begin(&self) -> Result<Transaction<'_>, StoreError> {
        self.writer.begin().await
    }

    pub(super) fn readers(&self) -> &PgPool {
        &self.readers.pool
    }

    fn unread(&self, source: sqlx::Error) -> StoreError {
        not_read(&self.database)(source)
    }

    /// What the server answers to one statement that reads.
    pub(super) async fn read<T>(
        &self,
        asked: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, StoreError> {
        self.readers.ask(asked).await.map_err(|e| self.unread(e))
    }

    /// Marks those of `unreadable` of which the journal tells already, and of the same fault.
    async fn mark_told(&self, unreadable: &mut [Unreadable]) -> Result<(), StoreError> {
        if unreadable.is_empty() {
            return Ok(());
        }
        let asked = sqlx::query("SELECT * FROM journal WHERE kind = $1")
            .bind(Unreadable::KIND)
            .fetch_all(&self.readers.pool);
        let rows = self.read(asked).await?;
        mark_told(&rows, unreadable);
        Ok(())
    }

    async fn load_drains(&self, stored: &mut Stored) -> Result<(), sqlx::Error> {
        let asked =
            sqlx::query("SELECT worker, unix_ms, reason FROM drains").fetch_all(&self.readers.pool);
        let rows = self.readers.ask(asked).await?;
        self.named.drains(&rows, stored);
        Ok(())
    }
}

/// PostgreSQL counts no further.
fn position(after: u64) -> i64 {
    i64::try_from(after).unwrap_or(i64::MAX)
}

async fn size(readers: &Readers) -> Result<u64, sqlx::Error> {
    let asked =
        sqlx::query_scalar("SELECT pg_database_size(current_database())").fetch_one(&readers.pool);
    let bytes: i64 = readers.ask(asked).await?;
    Ok(bytes as u64)
}

impl JobStore for PostgresStore {
    async fn apply(&self, writes: Vec<Write>) -> Result<Vec<JournalEntry>, StoreError> {
        let mut transaction = self.writer.begin().await?;
        let entries = transaction.apply(writes).await?;
        transaction.commit(entries).await
    }

    /// It holds the epoch in a transaction of its own, for whose end the next leader waits.
    async fn while_leading<T: Send + 'static>(
        &self,
        act: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.leadership.check()?;
        let mut held = self.read(self.readers.pool.begin()).await?;
        let asked = sqlx::query_scalar("SELECT epoch FROM leader FOR SHARE").fetch_one(&mut *held);
        let found: i64 = self.read(asked).await?;
        if found != self.leadership.epoch {
            return Err(self.leadership.deposed(found));
        }
        // Whoever waits here may go away, and what is under way on a disk or on the wire cannot be
        // called back.
        let acting = tokio::spawn(hold(held, act));
        let fault = match acting.await {
            Ok((done, Ok(()))) => return Ok(done),
            Ok((_, Err(e))) => said(&e),
            Err(e) => e.to_string(),
        };
        Err(StoreError::Unheld {
            place: self.database.to_string(),
            fault,
        })
    }

    async fn load(&self) -> Result<Stored, StoreError> {
        self.writer.settle().await?;
        let mut stored = Stored::default();
        let fault = |e| self.unread(e);
        jobs::live(&self.readers, &mut stored)
            .await
            .map_err(fault)?;
        jobs::ended(&self.readers, &mut stored)
            .await
            .map_err(fault)?;
        self.load_drains(&mut stored).await.map_err(fault)?;
        let asked = sqlx::query("SELECT job, token FROM counters").fetch_one(&self.readers.pool);
        let counters = self.read(asked).await?;
        rows::reserve(&counters, &mut stored.reserved).map_err(fault)?;
        let asked =
            sqlx::query_scalar("SELECT id FROM identity").fetch_optional(&self.readers.pool);
        let id: Option<String> = self.read(asked).await?;
        // Another id would make this another coordinator, for workers that hold its attempts.
        stored.coordinator_id = id.ok_or_else(|| StoreError::ServerDamaged {
            place: self.database.to_string(),
            fault: "it does not say which coordinator it is of".into(),
        })?;
        self.mark_told(&mut stored.unreadable).await?;
        Ok(stored)
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        let row = jobs::one(&self.readers, position(id.0)).await;
        let row = row.map_err(|e| self.unread(e))?;
        row.as_ref().map(rows::asked).transpose()
    }

    async fn jobs(&self, query: &JobQuery) -> Result<Page, StoreError> {
        let found = jobs::numbers(&self.readers, query, position(query.before.0)).await;
        let (ids, next) = query.cut(found.map_err(|e| self.unread(e))?);
        let rows = jobs::rows_of(&self.readers, &ids).await;
        let readable = |row| self.named.readable(rows::asked(row));
        let rows = rows.map_err(|e| self.unread(e))?;
        let jobs = rows.iter().filter_map(readable).collect();
        Ok(Page { jobs, next })
    }

    async fn metrics(
        &self,
        job: JobId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<MetricRecord>, StoreError> {
        let asked =
            sqlx::query("SELECT seq, step, unix_ms, vals FROM metrics WHERE job = $1 AND seq > $2 ORDER BY seq LIMIT $3")
                .bind(position(job.0))
                .bind(position(after))
                .bind(i64::from(limit))
                .fetch_all(&self.readers.pool);
        let rows = self.read(asked).await?;
        Ok(self
            .named
            .read(&rows, &format!("job {job}'s point"), rows::metric))
    }

    async fn logs(&self, job: JobId, after: u64, limit: u32) -> Result<Vec<LogRecord>, StoreError> {
        let asked = sqlx::query(
            "SELECT seq, unix_ms, level, text, token FROM logs WHERE job = $1 AND seq > $2 ORDER BY seq LIMIT $3",
        )
        .bind(position(job.0))
        .bind(position(after))
        .bind(i64::from(limit))
        .fetch_all(&self.readers.pool);
        let rows = self.read(asked).await?;
        Ok(self
            .named
            .read(&rows, &format!("job {job}'s log line"), rows::log))
    }

    async fn last_logs(&self, job: JobId, limit: u32) -> Result<Vec<LogRecord>, StoreError> {
        let asked =
            sqlx::query("SELECT seq, unix_ms, level, text, token FROM logs WHERE job = $1 ORDER BY seq DESC LIMIT $2")
                .bind(position(job.0))
                .bind(i64::from(limit))
                .fetch_all(&self.readers.pool);
        let rows = self.read(asked).await?;
        let mut lines = self
            .named
            .read(&rows, &format!("job {job}'s log line"), rows::log);
        lines.reverse();
        Ok(lines)
    }

    async fn record_bytes(&self, job: JobId) -> Result<u64, StoreError> {
        // A sum of bigint is numeric.
        let asked = sqlx::query_scalar(
            "SELECT (
                (SELECT COALESCE(SUM(OCTET_LENGTH(text)), 0) FROM logs WHERE job = $1)
                + (SELECT COALESCE(SUM(OCTET_LENGTH(vals)), 0) FROM metrics WHERE job = $1)
            )::bigint",
        )
        .bind(position(job.0))
        .fetch_one(&self.readers.pool);
        let bytes: i64 = self.read(asked).await?;
        Ok(bytes as u64)
    }

    /// What was found when it was asked for before; the server is asked meanwhile. Its disk is not
    /// this machine's.
    fn disk_bytes(&self) -> u64 {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (readers, kept) = (self.readers.clone(), self.size.clone());
            runtime.spawn(async move {
                match size(&readers).await {
                    Ok(bytes) => kept.store(bytes, Relaxed),
                    Err(e) => tracing::debug!(error = %e, "the size of the database is not known"),
                }
            });
        }
        self.size.load(Relaxed)
    }

    async fn journal(&self, after: u64, limit: u32) -> Result<Vec<JournalEntry>, StoreError> {
        let asked = sqlx::query("SELECT * FROM journal WHERE seq > $1 ORDER BY seq LIMIT $2")
            .bind(position(after))
            .bind(i64::from(limit))
            .fetch_all(&self.readers.pool);
        let rows = self.read(asked).await?;
        Ok(self.named.read(&rows, "journal entry", rows::entry))
    }

    async fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        let asked = sqlx::query("SELECT * FROM tokens ORDER BY id").fetch_all(&self.readers.pool);
        let rows = self.read(asked).await?;
        Ok(self.named.tokens(&rows))
    }

    async fn put_config(
        &self,
        name: &str,
        yaml: &str,
        hash: &str,
        unix_ms: u64,
        by: Option<By>,
    ) -> Result<ConfigRevision, StoreError> {
        let mut transaction = self.writer.begin().await?;
        let made = ConfigRevision {
            name: name.into(),
            revision: 0,
            yaml: yaml.into(),
            hash: hash.into(),
            unix_ms,
        };
        match transaction.put_config(made, by).await? {
            // Nothing was changed: the transaction is over without a commit.
            (same, false) => transaction.end(same).await,
            (made, true) => transaction.commit(made).await,
        }
    }

    async fn config(&self, name: &str, revision: u64) -> Result<ConfigRevision, StoreError> {
        let asked = sqlx::query(
            "SELECT * FROM configs WHERE name = $1 AND ($2 = 0 OR revision = $2) ORDER BY revision DESC LIMIT 1",
        )
        .bind(writable(name).into_owned())
        .bind(position(revision))
        .fetch_optional(&self.readers.pool);
        let row = self.read(asked).await?;
        let row = row.ok_or_else(|| StoreError::NoConfig {
            name: name.into(),
            revision,
        })?;
        rows::config(&row)
    }

    async fn configs(&self, name: Option<&str>) -> Result<Vec<ConfigRevision>, StoreError> {
        let query = match name {
            Some(name) => sqlx::query("SELECT * FROM configs WHERE name = $1 ORDER BY revision")
                .bind(writable(name).into_owned()),
            None => sqlx::query(
                "SELECT c.* FROM configs c WHERE revision = (SELECT MAX(revision) FROM configs WHERE name = c.name) ORDER BY name",
            ),
        };
        let asked = query.fetch_all(&self.readers.pool);
        let rows = self.read(asked).await?;
        let readable = |row| self.named.readable(rows::config(row));
        Ok(rows.iter().filter_map(readable).collect())
    }
}
