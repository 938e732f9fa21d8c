//! Whether this process leads still, and who asks to hear when it does not.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::database::{Database, PATIENCE, within};
use crate::error::StoreError;

/// How often the session that holds the lock is asked whether it is there.
const BEAT: Duration = Duration::from_millis(500);

/// The epoch of this leader, until it ends.
#[derive(Clone)]
pub(super) struct Leadership {
    pub epoch: i64,
    database: Arc<Database>,
    lost: watch::Sender<Option<String>>,
}

impl Leadership {
    pub fn new(epoch: i64, database: Arc<Database>) -> Self {
        Self {
            epoch,
            database,
            lost: watch::channel(None).0,
        }
    }

    /// It is over; the first reason counts.
    pub fn end(&self, fault: impl Into<String>) -> StoreError {
        let fault = fault.into();
        self.lost.send_if_modified(|lost| {
            let is_first = lost.is_none();
            if is_first {
                *lost = Some(fault.clone());
            }
            is_first
        });
        self.fault(fault)
    }

    /// Another leader's epoch was found.
    pub fn deposed(&self, found: i64) -> StoreError {
        let own = self.epoch;
        self.end(format!(
            "another coordinator has led since, under epoch {found} after {own}"
        ))
    }

    /// Returns once it is over, and why.
    pub async fn lost(&self) -> StoreError {
        let mut told = self.lost.subscribe();
        // The sender lives in `self`, so that the wait ends with a reason only.
        let fault = match told.wait_for(Option::is_some).await {
            Ok(lost) => lost.clone().unwrap_or_default(),
            Err(closed) => closed.to_string(),
        };
        self.fault(fault)
    }

    /// # Errors
    /// It is over.
    pub fn check(&self) -> Result<(), StoreError> {
        match &*self.lost.borrow() {
            None => Ok(()),
            Some(fault) => Err(self.fault(fault.clone())),
        }
    }

    fn fault(&self, fault: String) -> StoreError {
        StoreError::Deposed {
            place: self.database.to_string(),
            fault,
        }
    }

    /// Watches `session`, whose lock makes this process the leader, until either ends.
    pub fn watch(&self, session: PgConnection) -> Watched {
        let own = self.clone();
        let task = tokio::spawn(async move { own.beat(session).await });
        Watched(task.abort_handle())
    }

    async fn beat(self, mut session: PgConnection) {
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            let asked =
                sqlx::query_scalar::<_, i64>("SELECT epoch FROM leader").fetch_one(&mut session);
            match within(PATIENCE, asked).await {
                Ok(found) if found == self.epoch => {}
                Ok(found) => return drop(self.deposed(found)),
                Err(e) => {
                    return drop(self.end(format!("the session that holds its lock broke: {e}")));
                }
            }
        }
    }
}

/// Ends the session with its lock when it is dropped, so that the next leader need not wait.
pub(super) struct Watched(AbortHandle);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.abort();
    }
}
