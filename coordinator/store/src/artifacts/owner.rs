//! Whose artifacts a folder or a bucket holds: its mark names the database of their jobs.
//!
//! A coordinator removes what none of its jobs needs, so that two databases must not have one place.
//! The first coordinator that opens a place writes the mark, once; every other one reads it. A place
//! from before there were marks is adopted by whoever opens it first. What a database needs lies where
//! its artifacts are: an empty place is not its own while jobs of it have some, unless a person has
//! written behind the id that they are lost.

use super::error::ArtifactError;

/// The name of the mark, beside the artifacts.
pub(super) const MARK: &str = "qlora-owner";

/// What a person writes into the mark, behind the id, where the artifacts are lost.
pub(super) const LOST: &str = "lost";

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

    /// Takes a place by what its mark at `path` holds, and by whether any artifact lies there.
    ///
    /// # Errors
    /// It is another database's, or it is empty, and the artifacts of the database lie elsewhere.
    pub(super) fn takes(
        &self,
        path: &str,
        mark: &[u8],
        is_empty: bool,
    ) -> Result<(), ArtifactError> {
        let text = String::from_utf8_lossy(mark);
        let found = text.trim();
        let behind = found.strip_prefix(&self.id).map(str::trim_start);
        match behind {
            Some("") => self.adopts(path, is_empty),
            Some(LOST) => Ok(()),
            _ => Err(ArtifactError::Foreign {
                path: path.to_owned(),
                id: self.id.clone(),
                found: found.to_owned(),
            }),
        }
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

    /// Judges a place, for somebody who waits to lead: the leader has marked the one that it uses.
    /// `mark` is none where nobody has.
    ///
    /// # Errors
    /// As [`Self::takes`] and [`Self::adopts`]; and [`ArtifactError::Unmarked`] where it is empty, and
    /// may be one that the leader does not know.
    pub(super) fn expects(
        &self,
        path: &str,
        mark: Option<&[u8]>,
        is_empty: bool,
    ) -> Result<(), ArtifactError> {
        match mark {
            Some(mark) => self.takes(path, mark, is_empty),
            None => {
                self.adopts(path, is_empty)?;
                if is_empty {
                    return Err(ArtifactError::Unmarked {
                        path: path.to_owned(),
                    });
                }
                Ok(())
            }
        }
    }
}
