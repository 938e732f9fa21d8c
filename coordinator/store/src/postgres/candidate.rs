//! Who wants to lead: it asks for the database's lock, again and again, until it has it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::database::{Database, PATIENCE, within};
use super::fault::{is_new, not_read, not_written, passes};
use super::fill::fill;
use super::leadership::Leadership;
use super::migrate::migrate;
use super::store::PostgresStore;
use crate::artifacts::Owner;
use crate::bounds::Bounds;
use crate::error::StoreError;

/// The lock of whoever leads; it is of one database, and its number says nothing.
const LOCK: i64 = 0x71_6c6f_7261;

/// As [`crate::records::Stored::owner`], without reading every job: `spec` has the inputs of a job, and
/// `body` what it made. A quote inside of a text has a backslash before it, so that nothing else in
/// either looks like that.
const OWNER: &str = r#"
SELECT id, EXISTS (
    SELECT FROM jobs WHERE spec LIKE '%"files":[{%' OR body LIKE '%"artifacts":[{%'
) AS has_artifacts FROM identity"#;

/// Asks to lead. It is one session of the server, which the lock belongs to.
pub struct Candidate {
    database: Arc<Database>,
    bounds: Bounds,
    session: Option<PgConnection>,
}

/// What came of asking once.
pub enum Campaign {
    Leads(Box<PostgresStore>),
    /// Another one leads, at this address where it is known.
    Stands {
        leader: Option<String>,
    },
    /// The server cannot be asked now; it may be later.
    Away(StoreError),
}

impl Candidate {
    pub fn new(database: Database) -> Self {
        Self::within(database, Bounds::default())
    }

    /// As [`Self::new`], with other bounds of what is kept.
    pub fn within(database: Database, bounds: Bounds) -> Self {
        Self {
            database: Arc::new(database),
            bounds,
            session: None,
        }
    }

    /// Asks once. Who leads is told to others under `address`.
    ///
    /// # Errors
    /// The database cannot be used, and asking again does not help.
    pub async fn ask(&mut self, address: &str) -> Result<Campaign, StoreError> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => match self.database.connect().await {
                Ok(session) => session,
                Err(e) => return self.failed(e),
            },
        };
        match locked(&mut session).await {
            Err(e) => self.failed(e),
            Ok(true) => self.lead(session, address).await.or_else(awaited),
            Ok(false) => match leader(&mut session).await {
                Err(e) => self.failed(e),
                Ok(leader) => {
                    self.session = Some(session);
                    Ok(Campaign::Stands { leader })
                }
            },
        }
    }

    /// The owner of the artifacts, for somebody who waits to lead. None where the database does not
    /// say it now, or has another schema: who leads then is told in time.
    pub async fn owner(&mut self) -> Option<Owner> {
        let mut session = self.session.take()?;
        let asked = sqlx::query(OWNER).fetch_optional(&mut session);
        // A session that failed or is late is made anew by who asks next.
        let row = self.database.ask(asked).await.ok()?;
        self.session = Some(session);
        let row = row?;
        let (id, has_artifacts) = (row.try_get("id").ok()?, row.try_get("has_artifacts").ok()?);
        Some(Owner::new(id, has_artifacts))
    }

    fn failed(&self, source: sqlx::Error) -> Result<Campaign, StoreError> {
        awaited(not_read(&self.database)(source))
    }

    /// `session` has the lock. The new epoch ends every transaction of leaders before: it waits for
    /// those that are under way.
    async fn lead(&self, mut session: PgConnection, address: &str) -> Result<Campaign, StoreError> {
        migrate(&self.database, &mut session).await?;
        let epoch = begun(&self.database, &mut session, address)
            .await
            .map_err(not_written(&self.database))?;
        warn_of_loss(&self.database, &mut session).await?;
        let leadership = Leadership::new(epoch, self.database.clone());
        let watched = leadership.watch(session);
        let store = PostgresStore::new(&self.database, self.bounds, leadership, watched).await?;
        Ok(Campaign::Leads(Box::new(store)))
    }
}

/// Trouble that may pass is waited for, whatever was asked; other trouble is the end.
fn awaited(fault: StoreError) -> Result<Campaign, StoreError> {
    let may_pass = match &fault {
        StoreError::Read { source, .. } | StoreError::NotWritten { source, .. } => passes(source),
        StoreError::ServerFull { .. } => true,
        _ => false,
    };
    if may_pass {
        Ok(Campaign::Away(fault))
    } else {
        Err(fault)
    }
}

/// Whether `session` holds the lock now.
async fn locked(session: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let asked = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
        .bind(LOCK)
        .fetch_one(session);
    within(PATIENCE, asked).await
}

/// Begins an epoch. What a leader of an earlier version wrote is filled in only then: until it ends,
/// it may write more. Where a replica is waited for, it has all that was committed before.
async fn begun(
    database: &Database,
    session: &mut PgConnection,
    address: &str,
) -> Result<i64, sqlx::Error> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let raised = sqlx::query_scalar(
        "UPDATE leader SET epoch = epoch + 1, address = $1, unix_ms = $2 RETURNING epoch",
    )
    .bind(address)
    .bind(since.map_or(0, |since| since.as_millis() as i64))
    .fetch_one(&mut *session);
    let epoch = database.ask(raised).await?;
    fill(database, session).await?;
    Ok(epoch)
}

/// The address that the leader wrote down; none before there was one.
async fn leader(session: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    let asked = sqlx::query_scalar("SELECT address FROM leader").fetch_optional(session);
    let found: Option<String> = match within(PATIENCE, asked).await {
        Err(e) if is_new(&e) => None,
        answer => answer?,
    };
    Ok(found.filter(|address| !address.is_empty()))
}

/// A server that does not wait for its disk loses what was acknowledged when its machine stops.
async fn warn_of_loss(database: &Database, session: &mut PgConnection) -> Result<(), StoreError> {
    let asked = sqlx::query_scalar("SELECT current_setting('fsync')").fetch_one(session);
    let fsync: String = database.ask(asked).await.map_err(not_read(database))?;
    if fsync != "on" {
        tracing::warn!(
            "the server of {database} runs with fsync = {fsync}: what is acknowledged may be lost when its machine stops"
        );
    }
    Ok(())
}
