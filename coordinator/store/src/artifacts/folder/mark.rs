//! The mark of a folder: a file beside the artifacts that is written once and never changed.
//!
//! An empty one counts as none. Where storage knows no second name of a file, the mark has its name
//! before its bytes: whoever writes them holds its lock, and others wait for that.

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
    let shown = path.display().to_string();
    let (mark, is_empty) = look(root)?;
    if let Some(mark) = mark {
        return owner.takes(&shown, &mark, is_empty);
    }
    owner.adopts(&shown, is_empty)?;
    write_once(root, &path, &owner.text()).map_err(at(&path))?;
    // Another coordinator may have come first.
    let mark = fs::read(&path).map_err(at(&path))?;
    owner.takes(&shown, &mark, is_empty)
}

/// Judges the folder `root` for somebody who waits to lead for `owner`; changes nothing.
///
/// # Errors
/// It is another's, it lacks the artifacts of `owner`, it is empty and has no mark, or it cannot be
/// read.
pub(in crate::artifacts) fn check(root: &Path, owner: &Owner) -> Result<(), ArtifactError> {
    let (mark, is_empty) = look(root)?;
    let shown = root.join(MARK).display().to_string();
    owner.expects(&shown, mark.as_deref(), is_empty)
}

/// The mark of `root`, where it has one, and whether no artifact lies there.
fn look(root: &Path) -> Result<(Option<Vec<u8>>, bool), ArtifactError> {
    let (path, artifacts) = (root.join(MARK), root.join("sha256"));
    let mark = written(&path).map_err(at(&path))?;
    let is_empty = is_empty(&artifacts).map_err(at(&artifacts))?;
    Ok((mark, is_empty))
}

/// What the mark at `path` holds; none where nobody has written it yet.
fn written(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(mark) => Ok((!mark.trim_ascii().is_empty()).then_some(mark)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Gives the file at `path` its bytes with its name, unless it has some.
fn write_once(root: &Path, path: &Path, text: &str) -> io::Result<()> {
    let unnamed = unnamed(root);
    let named = write_durably(&unnamed, text).and_then(|()| match fs::hard_link(&unnamed, path) {
        // Somebody has come first, or has died before there were bytes in it; or some shared storage
        // knows no second name of a file.
        Err(_) => fill(path, text),
        Ok(()) => Ok(()),
    });
    // It is of no use any more; one that stays is a few bytes.
    let _ = fs::remove_file(&unnamed);
    named?;
    File::open(root)?.sync_all()
}

/// Gives the file at `path` its bytes under its lock, unless it has some.
fn fill(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)?;
    // Storage that knows no locks is taken as it is: two coordinators rarely come at one moment, and
    // whoever reads another's id afterwards ends.
    let _ = file.lock();
    // By its name: storage may show what others have written only to those who open it.
    if written(path)?.is_some() {
        return Ok(());
    }
    let filled = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all());
    if filled.is_err() {
        // A part of a mark would be nobody's.
        let _ = file.set_len(0);
    }
    filled
}

/// A name that no other process gives.
fn unnamed(root: &Path) -> PathBuf {
    // Every hasher of the standard library has random keys.
    let random = RandomState::new().hash_one(MARK);
    root.join(format!("{MARK}.{random:016x}"))
}

fn write_durably(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_file_has_one_name_only_a_mark_is_written_once_and_others_wait_for_its_bytes() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(MARK);
        // It has its name, and no bytes yet.
        let mut first = File::create_new(&path).expect("a mark");
        first.lock().expect("its lock");
        let second = {
            let path = path.clone();
            std::thread::spawn(move || fill(&path, "b\n"))
        };
        first.write_all(b"a\n").expect("bytes");
        drop(first);
        let filled = second.join().expect("an end");
        filled.expect("no fault");
        assert_eq!(fs::read_to_string(&path).expect("a mark"), "a\n");
    }

    #[test]
    fn a_mark_whose_writer_died_before_its_bytes_is_written_by_who_comes_next() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(MARK);
        for before in ["", "\n"] {
            fs::write(&path, before).expect("a mark without a word");
            let owner = Owner::new("a".repeat(32), false);
            let waiting = check(folder.path(), &owner).expect_err("nobody's");
            assert!(matches!(waiting, ArtifactError::Unmarked { .. }));
            take(folder.path(), &owner).expect("its own");
            assert_eq!(fs::read_to_string(&path).expect("a mark"), owner.text());
        }
        let files = fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(files, 1, "the mark alone");
    }
}
