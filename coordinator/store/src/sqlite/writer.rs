//! The one connection that writes, and what becomes of it when a write fails.
//!
//! Transactions begin and end in plain SQL on a connection of our own. On a full disk SQLite ends a
//! transaction by itself, while the library still counts it as open. A pool would hand such a
//! connection on, and everything after would lie in savepoints of a transaction that nobody
//! commits. Here any failure discards the connection. A commit counts only once another connection
//! sees it.

use std::path::{Path, PathBuf};

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{Mutex, MutexGuard};

use super::fill::fill;
use super::migrate::{mend, migrate};
use crate::bounds::Bounds;
use crate::error::{StoreError, not_read, not_written};

/// Gives out one transaction at a time.
pub(super) struct Writer {
    folder: PathBuf,
    options: SqliteConnectOptions,
    bounds: Bounds,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// None where the last one was thrown away.
    connection: Option<SqliteConnection>,
    /// Reads back what was committed. One is always open: with the last connection SQLite's shared
    /// memory goes, and on a full disk there may be no room to make it again.
    witness: Option<SqliteConnection>,
    /// Transactions that are durable, where that is known.
    commits: Option<i64>,
}

/// A transaction. Dropping it, at whatever point, throws its connection away, and all that it
/// wrote.
pub(super) struct Transaction<'a> {
    pub(super) folder: &'a Path,
    pub(super) connection: SqliteConnection,
    /// The greatest job and token that it stores.
    pub(super) greatest: (i64, i64),
    /// How much of what grows stays.
    pub(super) bounds: Bounds,
    options: &'a SqliteConnectOptions,
    state: MutexGuard<'a, State>,
}

impl Writer {
    /// Opens the database and brings it to the newest schema.
    pub async fn open(
        folder: &Path,
        options: SqliteConnectOptions,
        bounds: Bounds,
    ) -> Result<Self, StoreError> {
        let mut connection = options.connect().await.map_err(not_written(folder))?;
        migrate(folder, &mut connection).await?;
        mend(folder, &mut connection).await?;
        fill(folder, &mut connection).await?;
        let mut state = State {
            connection: Some(connection),
            ..State::default()
        };
        state.commits = Some(state.count(&options).await.map_err(not_read(folder))?);
        Ok(Self {
            folder: folder.into(),
            options,
            bounds,
            state: Mutex::new(state),
        })
    }

    /// Begins a transaction, on a new connection where the last one failed.
    pub async fn begin(&self) -> Result<Transaction<'_>, StoreError> {
        let mut state = self.state.lock().await;
        let mut connection = match state.connection.take() {
            Some(connection) => connection,
            None => self.connect(&mut state).await?,
        };
        // From here on what fails takes the connection with it.
        sqlx::raw_sql("BEGIN IMMEDIATE")
            .execute(&mut connection)
            .await
            .map_err(not_written(&self.folder))?;
        Ok(Transaction {
            folder: &self.folder,
            connection,
            greatest: (0, 0),
            bounds: self.bounds,
            options: &self.options,
            state,
        })
    }

    /// Closes every connection, with nothing left in the log.
    ///
    /// # Errors
    /// Another program reads the database, so that the log has to stay.
    pub async fn close(self) -> Result<(), StoreError> {
        let mut state = self.state.into_inner();
        let fault = not_written(&self.folder);
        if let Some(witness) = state.witness.take() {
            witness.close().await.map_err(&fault)?;
        }
        let mut connection = match state.connection.take() {
            Some(connection) => connection,
            None => self.options.connect().await.map_err(&fault)?,
        };
        let busy: i64 = sqlx::query_scalar("PRAGMA wal_checkpoint(TRUNCATE)")
            .fetch_one(&mut connection)
            .await
            .map_err(&fault)?;
        connection.close().await.map_err(&fault)?;
        if busy != 0 {
            return Err(StoreError::Busy {
                path: self.folder.clone(),
            });
        }
        Ok(())
    }

    /// A connection that shows everything that was acknowledged.
    async fn connect(&self, state: &mut State) -> Result<SqliteConnection, StoreError> {
        let mut connection = self
            .options
            .connect()
            .await
            .map_err(not_written(&self.folder))?;
        let found = count(&mut connection)
            .await
            .map_err(not_written(&self.folder))?;
        match state.commits.replace(found) {
            Some(known) if known != found => {
                let fault =
                    format!("transaction {known} was acknowledged, {found} is the last one there");
                Err(StoreError::Unsure {
                    path: self.folder.clone(),
                    fault,
                })
            }
            _ => Ok(connection),
        }
    }
}

impl Transaction<'_> {
    /// Makes everything durable, reads it back on another connection, and returns `made`.
    ///
    /// # Errors
    /// Nothing of it is there, unless the error is [`StoreError::Unsure`].
    pub async fn commit<T>(mut self, made: T) -> Result<T, StoreError> {
        let number = bump(&mut self.connection, self.greatest)
            .await
            .map_err(not_written(self.folder))?;
        // Whoever waits for this may go away in the middle: then what is durable is what the next
        // connection finds.
        self.state.commits = None;
        let committed = sqlx::raw_sql("COMMIT").execute(&mut self.connection).await;
        let Self {
            folder,
            connection,
            options,
            mut state,
            ..
        } = self;
        if committed.is_ok() && state.sees(options, number).await {
            state.commits = Some(number);
            state.connection = Some(connection);
            return Ok(made);
        }
        // Closing ends the transaction if it is still open; only then a new connection tells what
        // is durable.
        let _ = connection.close().await;
        let unseen = || sqlx::Error::Protocol("what was committed cannot be read back".into());
        let fault = committed.err().unwrap_or_else(unseen);
        match state.count(options).await {
            Ok(found) => {
                state.commits = Some(found);
                if found == number {
                    Ok(made)
                } else {
                    Err(not_written(folder)(fault))
                }
            }
            Err(e) => {
                state.commits = None;
                Err(StoreError::Unsure {
                    path: folder.into(),
                    fault: format!("{fault}; {e}"),
                })
            }
        }
    }

    /// Ends a transaction that has changed nothing.
    pub async fn end<T>(mut self, found: T) -> Result<T, StoreError> {
        sqlx::raw_sql("ROLLBACK")
            .execute(&mut self.connection)
            .await
            .map_err(not_written(self.folder))?;
        self.state.connection = Some(self.connection);
        Ok(found)
    }
}

impl State {
    /// Whether a connection that did not write it sees the transaction `number`.
    async fn sees(&mut self, options: &SqliteConnectOptions, number: i64) -> bool {
        self.count(options).await.is_ok_and(|found| found == number)
    }

    /// How many transactions another connection sees than the one that writes.
    async fn count(&mut self, options: &SqliteConnectOptions) -> Result<i64, sqlx::Error> {
        if let Some(witness) = &mut self.witness
            && let Ok(found) = count(witness).await
        {
            return Ok(found);
        }
        let mut witness = options.clone().read_only(true).connect().await?;
        let found = count(&mut witness).await?;
        self.witness = Some(witness);
        Ok(found)
    }
}

async fn count(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT commits FROM counters")
        .fetch_one(connection)
        .await
}

/// Counts this transaction, and keeps the greatest numbers that were ever given out.
async fn bump(
    connection: &mut SqliteConnection,
    (job, token): (i64, i64),
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "UPDATE counters SET commits = commits + 1, job = MAX(job, ?), token = MAX(token, ?) RETURNING commits",
    )
    .bind(job)
    .bind(token)
    .fetch_one(connection)
    .await
}
