//! SQLite in one file: write-ahead log, fsync on every commit.

mod briefs;
mod bulk;
mod fill;
mod jobs;
mod migrate;
mod moved;
mod writer;
mod writes;

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use fs4::fs_std::FileExt;
use qlora_engine::{Job, JobId};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection};

pub(crate) use self::moved::{MOVED, MOVING, check_moved};
use self::writer::Writer;
use crate::bounds::Bounds;
use crate::error::{DATABASE, StoreError, not_read, not_written};
use crate::named::{Named, mark_told};
use crate::page::{JobQuery, Page};
use crate::records::{
    By, ConfigRevision, JobStore, JournalEntry, LogRecord, MetricRecord, Stored, TokenRecord,
    Unreadable, Write,
};
use crate::rows;

/// The database `qlora.db` in a state folder.
pub struct SqliteStore {
    folder: PathBuf,
    writer: Writer,
    readers: SqlitePool,
    named: Named,
    /// Held locked, so that no second coordinator opens the folder.
    lock: File,
}

impl SqliteStore {
    /// Opens the database in `folder`, and makes both where they are missing.
    ///
    /// # Errors
    /// The folder cannot be written, another process uses it, or the database is damaged.
    pub async fn open(folder: &Path) -> Result<Self, StoreError> {
        Self::open_within(folder, Bounds::default()).await
    }

    /// As [`Self::open`], where there has to be a database.
    ///
    /// # Errors
    /// Those of [`Self::open`], and [`StoreError::NoState`].
    pub async fn open_existing(folder: &Path) -> Result<Self, StoreError> {
        has_state(folder)?;
        Self::open(folder).await
    }

    /// As [`Self::open`], with other bounds of what is kept.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub async fn open_within(folder: &Path, bounds: Bounds) -> Result<Self, StoreError> {
        let fault = |source| StoreError::Folder {
            path: folder.into(),
            source,
        };
        // It holds what people submit, and the token: its owner's alone.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(fault)?;
        let lock = lock(folder)?;
        check_moved(folder)?;
        let options = SqliteConnectOptions::new()
            .filename(folder.join(DATABASE))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let writer = Writer::open(folder, options.clone(), bounds).await?;
        // The new file's name must be as durable as what it will hold.
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(fault)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(4)
            .connect_lazy_with(options.read_only(true));
        Ok(Self {
            folder: folder.into(),
            writer,
            readers,
            named: Named::default(),
            lock,
        })
    }

    /// Which coordinator the database in the state folder `folder` makes; none where there is none.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn id_of(folder: &Path) -> Result<Option<String>, StoreError> {
        if has_state(folder).is_err() {
            return Ok(None);
        }
        let options = SqliteConnectOptions::new()
            .filename(folder.join(DATABASE))
            .read_only(true);
        let mut connection = options.connect().await.map_err(not_read(folder))?;
        let id = sqlx::query_scalar("SELECT id FROM identity")
            .fetch_one(&mut connection)
            .await
            .map_err(not_read(folder))?;
        connection.close().await.map_err(not_read(folder))?;
        Ok(Some(id))
    }

    /// Writes a copy of the database in the state folder `folder` to the file `to`, which must not be
    /// there. A coordinator may use it meanwhile: the copy is of one moment.
    ///
    /// # Errors
    /// There is no database, or it cannot be read or copied.
    pub async fn back_up(folder: &Path, to: &Path) -> Result<(), StoreError> {
        has_state(folder)?;
        let options = SqliteConnectOptions::new()
            .filename(folder.join(DATABASE))
            .read_only(true);
        let mut connection = options.connect().await.map_err(not_read(folder))?;
        sqlx::query("VACUUM INTO ?")
            .bind(to.to_string_lossy())
            .execute(&mut connection)
            .await
            .map_err(not_written(to))?;
        Ok(())
    }

    /// Closes it, with all of its log in the one file; the lock of the folder.
    pub(crate) async fn close(self) -> Result<File, StoreError> {
        self.readers.close().await;
        self.writer.close().await?;
        Ok(self.lock)
    }

    fn unread(&self, source: sqlx::Error) -> StoreError {
        not_read(&self.folder)(source)
    }

    /// Marks those of `unreadable` of which the journal tells already, and of the same fault.
    async fn mark_told(&self, unreadable: &mut [Unreadable]) -> Result<(), StoreError> {
        if unreadable.is_empty() {
            return Ok(());
        }
        let rows = sqlx::query("SELECT * FROM journal WHERE kind = ?")
            .bind(Unreadable::KIND)
            .fetch_all(&self.readers)
            .await
            .map_err(|e| self.unread(e))?;
        mark_told(&rows, unreadable);
        Ok(())
    }
}

/// Keeps other coordinators out of `folder` for as long as the file is open.
pub(crate) fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = || folder.to_owned();
    let fault = |source| StoreError::Folder {
        path: path(),
        source,
    };
    let lock = File::create(folder.join("lock")).map_err(fault)?;
    if !FileExt::try_lock_exclusive(&lock).map_err(fault)? {
        return Err(StoreError::InUse { path: path() });
    }
    Ok(lock)
}

fn has_state(folder: &Path) -> Result<(), StoreError> {
    match folder.join(DATABASE).is_file() {
        true => Ok(()),
        false => Err(StoreError::NoState {
            path: folder.into(),
        }),
    }
}

/// SQLite counts no further.
fn position(after: u64) -> i64 {
    i64::try_from(after).unwrap_or(i64::MAX)
}

impl JobStore for SqliteStore {
    async fn apply(&self, writes: Vec<Write>) -> Result<Vec<JournalEntry>, StoreError> {
        let mut transaction = self.writer.begin().await?;
        let entries = transaction.apply(writes).await?;
        transaction.commit(entries).await
    }

    async fn load(&self) -> Result<Stored, StoreError> {
        let mut stored = Stored::default();
        jobs::live(&self.readers, &mut stored)
            .await
            .map_err(|e| self.unread(e))?;
        jobs::ended(&self.readers, &mut stored)
            .await
            .map_err(|e| self.unread(e))?;
        let rows = sqlx::query("SELECT worker, unix_ms, reason FROM drains")
            .fetch_all(&self.readers)
            .await;
        let rows = rows.map_err(|e| self.unread(e))?;
        self.named.drains(&rows, &mut stored);
        let counters = sqlx::query("SELECT job, token FROM counters")
            .fetch_one(&self.readers)
            .await;
        rows::reserve(&counters.map_err(|e| self.unread(e))?, &mut stored.reserved)
            .map_err(|e| self.unread(e))?;
        let id = sqlx::query_scalar("SELECT id FROM identity")
            .fetch_optional(&self.readers)
            .await
            .map_err(|e| self.unread(e))?;
        // Another id would make this another coordinator, for workers that hold its attempts.
        stored.coordinator_id = id.ok_or_else(|| StoreError::Damaged {
            path: self.folder.join(DATABASE),
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
        let rows =
            sqlx::query("SELECT seq, step, unix_ms, vals FROM metrics WHERE job = ? AND seq > ? ORDER BY seq LIMIT ?")
                .bind(position(job.0))
                .bind(position(after))
                .bind(limit)
                .fetch_all(&self.readers)
                .await
                .map_err(|e| self.unread(e))?;
        Ok(self
            .named
            .read(&rows, &format!("job {job}'s point"), rows::metric))
    }

    async fn logs(&self, job: JobId, after: u64, limit: u32) -> Result<Vec<LogRecord>, StoreError> {
        let rows = sqlx::query(
            "SELECT seq, unix_ms, level, text, token FROM logs WHERE job = ? AND seq > ? ORDER BY seq LIMIT ?",
        )
        .bind(position(job.0))
        .bind(position(after))
        .bind(limit)
        .fetch_all(&self.readers)
        .await
        .map_err(|e| self.unread(e))?;
        Ok(self
            .named
            .read(&rows, &format!("job {job}'s log line"), rows::log))
    }

    async fn last_logs(&self, job: JobId, limit: u32) -> Result<Vec<LogRecord>, StoreError> {
        let rows =
            sqlx::query("SELECT seq, unix_ms, level, text, token FROM logs WHERE job = ? ORDER BY seq DESC LIMIT ?")
                .bind(position(job.0))
                .bind(limit)
                .fetch_all(&self.readers)
                .await
                .map_err(|e| self.unread(e))?;
        let mut lines = self
            .named
            .read(&rows, &format!("job {job}'s log line"), rows::log);
        lines.reverse();
        Ok(lines)
    }

    async fn record_bytes(&self, job: JobId) -> Result<u64, StoreError> {
        // A text's own length counts characters.
        let bytes: i64 = sqlx::query_scalar(
            "SELECT
                (SELECT COALESCE(SUM(LENGTH(CAST(text AS BLOB))), 0) FROM logs WHERE job = ?1)
                + (SELECT COALESCE(SUM(LENGTH(CAST(vals AS BLOB))), 0) FROM metrics WHERE job = ?1)",
        )
        .bind(position(job.0))
        .fetch_one(&self.readers)
        .await
        .map_err(|e| self.unread(e))?;
        Ok(bytes as u64)
    }

    fn disk_bytes(&self) -> u64 {
        // Beside the database lie its write-ahead log and the index of that.
        let files = ["", "-wal", "-shm"].map(|end| self.folder.join(format!("{DATABASE}{end}")));
        let sizes = files.iter().filter_map(|file| fs::metadata(file).ok());
        sizes.map(|meta| meta.len()).sum()
    }

    async fn journal(&self, after: u64, limit: u32) -> Result<Vec<JournalEntry>, StoreError> {
        let rows = sqlx::query("SELECT * FROM journal WHERE seq > ? ORDER BY seq LIMIT ?")
            .bind(position(after))
            .bind(limit)
            .fetch_all(&self.readers)
            .await
            .map_err(|e| self.unread(e))?;
        Ok(self.named.read(&rows, "journal entry", rows::entry))
    }

    async fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        let rows = sqlx::query("SELECT * FROM tokens ORDER BY id")
            .fetch_all(&self.readers)
            .await
            .map_err(|e| self.unread(e))?;
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
        let row = sqlx::query(
            "SELECT * FROM configs WHERE name = ?1 AND (?2 = 0 OR revision = ?2) ORDER BY revision DESC LIMIT 1",
        )
        .bind(name)
        .bind(position(revision))
        .fetch_optional(&self.readers)
        .await
        .map_err(|e| self.unread(e))?;
        let row = row.ok_or_else(|| StoreError::NoConfig {
            name: name.into(),
            revision,
        })?;
        rows::config(&row)
    }

    async fn configs(&self, name: Option<&str>) -> Result<Vec<ConfigRevision>, StoreError> {
        let query = match name {
            Some(name) => {
                sqlx::query("SELECT * FROM configs WHERE name = ? ORDER BY revision").bind(name)
            }
            None => sqlx::query(
                "SELECT c.* FROM configs c WHERE revision = (SELECT MAX(revision) FROM configs WHERE name = c.name) ORDER BY name",
            ),
        };
        let rows = query
            .fetch_all(&self.readers)
            .await
            .map_err(|e| self.unread(e))?;
        let readable = |row| self.named.readable(rows::config(row));
        Ok(rows.iter().filter_map(readable).collect())
    }
}
