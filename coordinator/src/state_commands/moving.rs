//! From the database in a state folder to one of a PostgreSQL server.

use std::fmt::Write;
use std::path::Path;

use qlora_store::{Campaign, Candidate, Database, Moved, PostgresStore, SetAside, StoreError};

use crate::error::StartError;

/// Moves everything, and gives the old database another name, so that nobody serves it again. What
/// was cut off is done by calling it again.
pub(super) async fn run(state: &Path, database: Database) -> Result<String, StartError> {
    let place = database.to_string();
    let to = alone(database).await?;
    // From here on nothing is written to it, whoever starts a coordinator.
    let from = SetAside::of(state).await?;
    let moved = match qlora_store::move_all(&from, &to).await {
        Ok(moved) => moved,
        // It may all be there: the next call finds out.
        Err(fault @ StoreError::Unsure { .. }) => return Err(fault.into()),
        Err(fault) => {
            from.put_back().await?;
            return Err(fault.into());
        }
    };
    let old = from.done().await?;
    let mut text = match moved {
        Moved::Before => format!("{place} has everything already.\n"),
        Moved::Rows(rows) => {
            rows.iter()
                .fold(format!("{place} has now:\n"), |mut text, (name, rows)| {
                    // Writing to a text does not fail.
                    let _ = writeln!(text, "  {rows:>10} {name}");
                    text
                })
        }
    };
    let _ = write!(
        text,
        "The old database is {}; delete it once the new one serves.\nStart: qlora-coordinator --state-dir {} --database URL\n",
        old.display(),
        state.display()
    );
    Ok(text)
}

/// The database, with nobody else at work on it.
async fn alone(database: Database) -> Result<PostgresStore, StoreError> {
    let place = database.to_string();
    // It serves nobody, so that there is no address to tell.
    match Candidate::new(database).ask("").await? {
        Campaign::Leads(store) => Ok(*store),
        Campaign::Stands { .. } => Err(StoreError::Led { place }),
        Campaign::Away(fault) => Err(fault),
    }
}
