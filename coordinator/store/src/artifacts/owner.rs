//! Whose artifacts a folder or a bucket holds: its mark names the database of their jobs.
//!
//! A coordinator removes what none of its jobs needs, so that two databases must not have one place.
//! The first coordinator that opens a place writes the mark, once; every other one reads it. A place
//! from before there were marks is adopted by whoever opens it first.

use super::error::ArtifactError;

/// The name of the mark, beside the artifacts.
pub(super) const MARK: &str = "qlora-owner";

/// The database whose jobs need the artifacts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    id: String,
    has_artifacts: bool,
}

impl Owner {
    /// The database of this `id`, which is the same for as long as the database lasts; whether any
    /// job in it has an artifact.
    pub fn new(id: String, has_artifacts: bool) -> Self {
        Self { id, has_artifacts }
    }

    /// What the mark holds.
    pub(super) fn text(&self) -> String {
        format!("{}\n", self.id)
    }

    /// Takes what the mark at `path` holds.
    ///
    /// # Errors
    /// It is another database's.
    pub(super) fn takes(&self, path: &str, mark: &[u8]) -> Result<(), ArtifactError> {
        let found = String::from_utf8_lossy(mark).trim().to_owned();
        if found == self.id {
            return Ok(());
        }
        Err(ArtifactError::Foreign {
            path: path.to_owned(),
            id: self.id.clone(),
            found,
        })
    }

    /// Takes a place whose mark at `path` is missing.
    ///
    /// # Errors
    /// It is empty, and the artifacts of the database lie elsewhere.
    pub(super) fn adopts(&self, path: &str, is_empty: bool) -> Result<(), ArtifactError> {
        if is_empty && self.has_artifacts {
            return Err(ArtifactError::Elsewhere {
                path: path.to_owned(),
                id: self.id.clone(),
            });
        }
        Ok(())
    }
}
