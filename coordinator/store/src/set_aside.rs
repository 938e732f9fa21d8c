//! A database that is set aside while its rows are moved: under a name that no coordinator opens.
//!
//! So nothing is written to it behind the move's back, also where the move is cut off and somebody
//! starts the coordinator again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use sqlx::Row;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};

use crate::error::{DATABASE, StoreError, not_read};
use crate::sqlite::{MOVED, MOVING, SqliteStore, check_moved, lock};
use crate::tables::Identity;

/// The database of a state folder whose lock is held.
pub struct SetAside {
    folder: PathBuf,
    rows: SqlitePool,
    _lock: File,
}

impl SetAside {
    /// Sets the database in `folder` aside, or goes on with the one of a move that was cut off.
    ///
    /// # Errors
    /// There is none, another program uses it, or it cannot be brought to the newest schema.
    pub async fn of(folder: &Path) -> Result<Self, StoreError> {
        let lock = match check_moved(folder) {
            Err(StoreError::Moving { .. }) => lock(folder)?,
            other => {
                other?;
                let lock = SqliteStore::open_existing(folder).await?.close().await?;
                renamed(folder, DATABASE, MOVING)?;
                lock
            }
        };
        // Nobody changes it, and everything of its log is in it.
        let options = SqliteConnectOptions::new()
            .filename(folder.join(MOVING))
            .read_only(true)
            .immutable(true);
        let rows = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_lazy_with(options);
        Ok(Self {
            folder: folder.into(),
            rows,
            _lock: lock,
        })
    }

    /// Nothing was moved: coordinators may open it again.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub async fn put_back(self) -> Result<(), StoreError> {
        self.rows.close().await;
        renamed(&self.folder, MOVING, DATABASE)
    }

    /// All of it was moved; the file in which it stays.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub async fn done(self) -> Result<PathBuf, StoreError> {
        self.rows.close().await;
        let further = (2..).map(|n| format!("{MOVED}-{n}"));
        let mut names = std::iter::once(MOVED.to_owned()).chain(further);
        let free = names.find(|name| !self.folder.join(name).exists());
        let name = free.unwrap_or_else(|| MOVED.to_owned());
        renamed(&self.folder, MOVING, &name)?;
        Ok(self.folder.join(name))
    }

    /// Which coordinator it is.
    pub(crate) async fn identity(&self) -> Result<Identity, StoreError> {
        let row = sqlx::query("SELECT id, job, token FROM identity CROSS JOIN counters")
            .fetch_one(&self.rows)
            .await
            .map_err(|e| self.unread(e))?;
        let read = |e| self.unread(e);
        Ok(Identity {
            id: row.try_get("id").map_err(read)?,
            greatest: (
                row.try_get("job").map_err(read)?,
                row.try_get("token").map_err(read)?,
            ),
        })
    }

    pub(crate) fn rows(&self) -> &SqlitePool {
        &self.rows
    }

    pub(crate) fn unread(&self, source: sqlx::Error) -> StoreError {
        not_read(&self.folder)(source)
    }
}

fn renamed(folder: &Path, from: &str, to: &str) -> Result<(), StoreError> {
    fs::rename(folder.join(from), folder.join(to))
        .and_then(|()| File::open(folder)?.sync_all())
        .map_err(|source| StoreError::Folder {
            path: folder.into(),
            source,
        })
}
