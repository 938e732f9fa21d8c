//! The mark of a folder: a file beside the artifacts that is written once and never changed.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::shelves::is_empty;
use crate::artifacts::error::{ArtifactError, at};
use crate::artifacts::owner::{MARK, Owner};

/// Takes the folder `root` for `owner`, and marks it where nobody has.
///
/// # Errors
/// It is another's, it lacks the artifacts of `owner`, or it cannot be written.
pub(super) fn take(root: &Path, owner: &Owner) -> Result<(), ArtifactError> {
    let path = root.join(MARK);
    if check(root, owner)? {
        return Ok(());
    }
    write_once(root, &path, &owner.text()).map_err(at(&path))?;
    // Another coordinator may have come first.
    let mark = fs::read(&path).map_err(at(&path))?;
    owner.takes(&path.display().to_string(), &mark)
}

/// Whether `root` has the mark of `owner`; changes nothing.
///
/// # Errors
/// It is another's, it lacks the artifacts of `owner`, or it cannot be read.
pub(in crate::artifacts) fn check(root: &Path, owner: &Owner) -> Result<bool, ArtifactError> {
    let path = root.join(MARK);
    let shown = path.display().to_string();
    match fs::read(&path) {
        Ok(mark) => owner.takes(&shown, &mark).map(|()| true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let artifacts = root.join("sha256");
            let is_empty = is_empty(&artifacts).map_err(at(&artifacts))?;
            owner.adopts(&shown, is_empty).map(|()| false)
        }
        Err(e) => Err(at(&path)(e)),
    }
}

/// Gives the file at `path` its bytes with its name, unless the name is taken.
fn write_once(root: &Path, path: &Path, text: &str) -> io::Result<()> {
    let unnamed = unnamed(root);
    let written =
        write_durably(&unnamed, text).and_then(|()| match fs::hard_link(&unnamed, path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            // Some shared storage knows no second name of a file.
            Err(_) => write_durably(path, text),
            Ok(()) => Ok(()),
        });
    // It is of no use any more; one that stays is a few bytes.
    let _ = fs::remove_file(&unnamed);
    match written {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }?;
    File::open(root)?.sync_all()
}

/// A name that no other process gives.
fn unnamed(root: &Path) -> PathBuf {
    // Every hasher of the standard library has random keys.
    let random = RandomState::new().hash_one(MARK);
    root.join(format!("{MARK}.{random:016x}"))
}

fn write_durably(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all());
    if written.is_err() {
        // A part of a mark would be nobody's.
        let _ = fs::remove_file(path);
    }
    written
}
