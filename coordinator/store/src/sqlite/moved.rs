//! What tells that a database has gone by a move.

use std::path::Path;

use crate::error::{DATABASE, StoreError};

/// The name during a move, and the one after it.
pub(crate) const MOVING: &str = "qlora.db.moving";
pub(crate) const MOVED: &str = "qlora.db.moved";

/// Whether the database in `folder` has gone by a move.
///
/// # Errors
/// It has, or a move of it was cut off.
pub(crate) fn check_moved(folder: &Path) -> Result<(), StoreError> {
    let path = || folder.to_owned();
    if folder.join(DATABASE).is_file() {
        Ok(())
    } else if folder.join(MOVING).is_file() {
        Err(StoreError::Moving { path: path() })
    } else if folder.join(MOVED).is_file() {
        Err(StoreError::Moved { path: path() })
    } else {
        Ok(())
    }
}
