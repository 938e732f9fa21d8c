//! The folders that artifacts are spread over, by the beginning of their digests.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::artifacts::digest::Digest256;
use crate::artifacts::error::{ArtifactError, at};

/// The folders in `artifacts`, the folder of all of them. Files there are of other programs, as
/// those that show folders to people.
///
/// # Errors
/// `artifacts` cannot be read.
pub(super) fn shelves(artifacts: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(artifacts)?.map(|entry| entry.map(|entry| entry.path()));
    // One that is a link to a folder is a folder.
    paths
        .filter(|path| path.as_ref().map_or(true, |path| path.is_dir()))
        .collect()
}

/// Whether no artifact lies in `artifacts`, the folder of all of them.
///
/// # Errors
/// It cannot be read, or one of its shelves cannot.
pub(super) fn is_empty(artifacts: &Path) -> io::Result<bool> {
    let shelves = match shelves(artifacts) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        other => other?,
    };
    for shelf in shelves {
        for file in fs::read_dir(shelf)? {
            if digest_of(&file?).is_some() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// The artifacts on `shelf` that were last modified more than `keep` ago.
///
/// # Errors
/// The shelf or one of its files cannot be read.
pub(in crate::artifacts) fn older_than(
    keep: Duration,
    shelf: &Path,
) -> Result<Vec<Digest256>, ArtifactError> {
    let mut old = Vec::new();
    for file in fs::read_dir(shelf).map_err(at(shelf))? {
        let file = file.map_err(at(shelf))?;
        let Some(digest) = digest_of(&file) else {
            continue;
        };
        let modified = file
            .metadata()
            .and_then(|meta| meta.modified())
            .map_err(at(&file.path()))?;
        if modified.elapsed().is_ok_and(|age| age > keep) {
            old.push(digest);
        }
    }
    Ok(old)
}

/// The artifact under whose final name `file` lies; none for what is of other programs, or was moved
/// aside.
fn digest_of(file: &fs::DirEntry) -> Option<Digest256> {
    file.file_name().to_str()?.parse().ok()
}
