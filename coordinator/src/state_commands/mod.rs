//! The commands that copy or move all that a coordinator holds.

mod backup;
mod moving;

use std::path::Path;

use crate::cli::{Cli, ServerUrl};
use crate::error::StartError;

/// Copies the state to the folder `to`; what to tell about it.
///
/// # Errors
/// There is no state, it cannot be read, or `to` cannot be written.
pub async fn back_up(cli: &Cli, to: &Path) -> Result<String, StartError> {
    let state = cli.state_folder().ok_or(StartError::NoStateFolder)?;
    let copied = backup::run(&state, to).await?;
    Ok(copied.told(cli.artifacts.as_ref()))
}

/// Moves jobs from the state folder to the PostgreSQL database; what to tell about it.
///
/// # Errors
/// There is no state, a coordinator uses either of them, or one of them fails.
pub async fn move_jobs(cli: &Cli, server: &ServerUrl) -> Result<String, StartError> {
    let state = cli.state_folder().ok_or(StartError::NoStateFolder)?;
    moving::run(&state, server.database(cli.lease)?).await
}
