//! The one connection that writes, and what becomes of it when a write fails.
//!
//! Every transaction begins by holding the epoch, so that no other leader can begin while it is
//! under way. Any failure discards the connection: the server then ends what was left open. After a
//! commit without an answer a new connection waits for the end of the transaction, and reads whether
//! it is there. Where that cannot be read in time either, this process leads no more: a commit that
//! waits for a lost replica may wait for ever, and is no failure.

use std::sync::Arc;

use sqlx::Row;
use sqlx::postgres::PgConnection;
use tokio::sync::{Mutex, MutexGuard};

use super::database::Database;
use super::fault::{not_written, written};
use super::leadership::Leadership;
use crate::bounds::Bounds;
use crate::error::StoreError;

/// Gives out one transaction at a time.
pub(super) struct Writer {
    database: Arc<Database>,
    leadership: Leadership,
    bounds: Bounds,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// None where the last one was thrown away.
    connection: Option<PgConnection>,
    /// Transactions that are durable, where that is known.
    commits: Option<i64>,
}

/// A transaction. Dropping it, at whatever point, throws its connection away, and all that it
/// wrote.
pub(super) struct Transaction<'a> {
    pub(super) database: &'a Database,
    pub(super) connection: PgConnection,
    /// The greatest job and token that it stores.
    pub(super) greatest: (i64, i64),
    /// The number of the last entry of the journal.
    pub(super) journal: i64,
    /// How much of what grows stays.
    pub(super) bounds: Bounds,
    leadership: &'a Leadership,
    state: MutexGuard<'a, State>,
}

/// What a transaction finds when it begins, and holds until it ends.
struct Found {
    epoch: i64,
    commits: i64,
    journal: i64,
}

impl Writer {
    pub fn new(database: Arc<Database>, leadership: Leadership, bounds: Bounds) -> Self {
        Self {
            database,
            leadership,
            bounds,
            state: Mutex::default(),
        }
    }

    /// Begins a transaction, on a new connection where the last one failed.
    ///
    /// # Errors
    /// The server fails or is late, this process leads no more, or what the server has is not what
    /// was acknowledged.
    pub async fn begin(&self) -> Result<Transaction<'_>, StoreError> {
        let mut state = self.state.lock().await;
        self.leadership.check()?;
        let mut connection = match state.connection.take() {
            Some(connection) => connection,
            None => {
                let connected = self.database.connect().await;
                connected.map_err(not_written(&self.database))?
            }
        };
        // From here on what fails takes the connection with it.
        let found = written(&self.database, held(&mut connection)).await?;
        if found.epoch != self.leadership.epoch {
            return Err(self.leadership.deposed(found.epoch));
        }
        if let Some(known) = state.commits.replace(found.commits)
            && known != found.commits
        {
            return Err(StoreError::Unsure {
                path: self.database.to_string().into(),
                fault: format!(
                    "transaction {known} was acknowledged, {} is the last one there",
                    found.commits
                ),
            });
        }
        Ok(Transaction {
            database: &self.database,
            connection,
            greatest: (0, 0),
            journal: found.journal,
            bounds: self.bounds,
            leadership: &self.leadership,
            state,
        })
    }

    /// Returns once no transaction is under way. The server may still be at work on a commit whose
    /// answer was lost, and what is read before it ends changes afterwards.
    pub async fn settle(&self) -> Result<(), StoreError> {
        self.begin().await?.end(()).await
    }
}

impl Transaction<'_> {
    /// Makes everything durable, and returns `made`.
    ///
    /// # Errors
    /// Nothing of it is there, unless the error is [`StoreError::Unsure`]: then this process leads no
    /// more, so that the next leader reads what is there before anything is told.
    pub async fn commit<T>(mut self, made: T) -> Result<T, StoreError> {
        let number = self.bump().await?;
        // Whoever waits for this may go away in the middle: then what is durable is what the next
        // transaction finds.
        self.state.commits = None;
        let commit = sqlx::raw_sql("COMMIT").execute(&mut self.connection);
        let committed = self.database.ask(commit).await;
        let Self {
            database,
            connection,
            leadership,
            mut state,
            ..
        } = self;
        let Err(fault) = committed else {
            state.commits = Some(number);
            state.connection = Some(connection);
            return Ok(made);
        };
        drop(connection);
        match database.ask(settled(database, leadership)).await {
            Ok(found) => {
                state.commits = Some(found);
                if found == number {
                    Ok(made)
                } else {
                    Err(not_written(database)(fault))
                }
            }
            Err(e) => {
                let fault = format!("{fault}; {e}");
                leadership.end(format!(
                    "whether its last commit is durable cannot be told ({fault})"
                ));
                Err(StoreError::Unsure {
                    path: database.to_string().into(),
                    fault,
                })
            }
        }
    }

    /// Ends a transaction that has changed nothing.
    pub async fn end<T>(mut self, found: T) -> Result<T, StoreError> {
        let ended = sqlx::raw_sql("ROLLBACK").execute(&mut self.connection);
        written(self.database, ended).await?;
        self.state.connection = Some(self.connection);
        Ok(found)
    }

    /// Counts this transaction, and keeps the greatest numbers that were ever given out.
    async fn bump(&mut self) -> Result<i64, StoreError> {
        let bumped = sqlx::query_scalar(
            "UPDATE counters SET commits = commits + 1, job = GREATEST(job, $1), token = GREATEST(token, $2), journal = $3 RETURNING commits",
        )
        .bind(self.greatest.0)
        .bind(self.greatest.1)
        .bind(self.journal)
        .fetch_one(&mut self.connection);
        written(self.database, bumped).await
    }
}

/// Begins a transaction that holds the epoch shared, and the counters alone. Where another one
/// holds them, it waits for the end of that.
async fn held(connection: &mut PgConnection) -> Result<Found, sqlx::Error> {
    sqlx::raw_sql("BEGIN").execute(&mut *connection).await?;
    let row = sqlx::query(
        "SELECT l.epoch, c.commits, c.journal FROM leader l CROSS JOIN counters c FOR SHARE OF l FOR UPDATE OF c",
    )
    .fetch_one(connection)
    .await?;
    Ok(Found {
        epoch: row.try_get("epoch")?,
        commits: row.try_get("commits")?,
        journal: row.try_get("journal")?,
    })
}

/// How many transactions are durable, now that none is under way. The server may still be at work
/// on one whose connection is gone: it holds the counters until it has ended. Where that one waited
/// for a replica and was cut off, it is there and the replica may lack it: this commit is answered
/// only once the replica has both.
async fn settled(database: &Database, leadership: &Leadership) -> Result<i64, sqlx::Error> {
    let mut connection = database.connect().await?;
    let found = held(&mut connection).await?;
    if found.epoch != leadership.epoch {
        // What the other leader counts says nothing of ours.
        let fault = leadership.deposed(found.epoch);
        return Err(sqlx::Error::Protocol(fault.to_string()));
    }
    sqlx::raw_sql("COMMIT").execute(&mut connection).await?;
    Ok(found.commits)
}
