//! The folder on disk: where artifacts and parts of uploads lie, and whether a file has the bytes
//! that its name promises.
//!
//! All calls here wait for the disk. The modules above decide who may be kept waiting, and which
//! artifacts are still needed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::Digest;

use super::hashes::{Hashes, Stamp, hash_of};
use super::mark;
use super::partial::{Parts, bytes_in};
use super::shelves::shelves;
use crate::artifacts::blocking::Waits;
use crate::artifacts::digest::Digest256;
use crate::artifacts::error::{ArtifactError, at};
use crate::artifacts::found::Found;
use crate::artifacts::owner::Owner;

/// Folders that are moved aside from under one name; beyond that somebody has to look.
const MOST_ASIDE: u32 = 1000;

/// Complete artifacts, and parts of uploads that broke off.
pub(in crate::artifacts) struct Folder {
    artifacts: PathBuf,
    pub(super) parts: Parts,
    /// Files that were hashed, and what their bytes hash to.
    hashes: Hashes,
    /// Who waits for its disk.
    pub waits: Waits,
}

impl Folder {
    /// Opens the folder `root`, makes it where it is missing, takes it for `owner`, and removes
    /// parts of uploads that are older than `keep`.
    pub fn open(
        root: &Path,
        owner: &Owner,
        keep: Duration,
        waits: Waits,
    ) -> Result<Self, ArtifactError> {
        let artifacts = root.join("sha256");
        fs::create_dir_all(&artifacts).map_err(at(&artifacts))?;
        // The folders themselves must survive a power cut, too.
        for made in [&artifacts, root]
            .into_iter()
            .chain(root.parent().filter(|p| !p.as_os_str().is_empty()))
        {
            File::open(made)
                .and_then(|made| made.sync_all())
                .map_err(at(made))?;
        }
        // Before anything in it is removed.
        mark::take(root, owner)?;
        let partial = root.join("partial");
        let parts = Parts::open(partial.clone(), keep).map_err(at(&partial))?;
        Ok(Self {
            artifacts,
            parts,
            hashes: Hashes::default(),
            waits,
        })
    }

    /// Bytes with which the next upload of `digest` may go on.
    pub fn resting_bytes(&self, digest: &Digest256) -> u64 {
        self.parts.bytes(digest)
    }

    /// Removes parts of uploads that have waited for longer than `keep`.
    pub fn clean(&self, keep: Duration) {
        self.parts.clean(keep);
    }

    /// Removes all parts that wait.
    pub fn make_room(&self) {
        self.parts.clear();
    }

    /// The folder of all artifacts.
    pub fn path(&self) -> &Path {
        &self.artifacts
    }

    pub fn final_path(&self, digest: &Digest256) -> PathBuf {
        self.shelf(digest).join(digest.as_str())
    }

    fn shelf(&self, digest: &Digest256) -> PathBuf {
        self.artifacts.join(digest.folder())
    }

    /// Makes the shelf of `digest` durable before anything is put there.
    pub fn make_shelf(&self, digest: &Digest256) -> io::Result<()> {
        match fs::create_dir(self.shelf(digest)) {
            Ok(()) => File::open(&self.artifacts)?.sync_all(),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(e) => Err(e),
        }
    }

    pub fn sync_shelf(&self, digest: &Digest256) -> io::Result<()> {
        File::open(self.shelf(digest))?.sync_all()
    }

    /// The bytes under the final name were hashed while they were written.
    pub fn vouch(&self, digest: &Digest256) -> io::Result<()> {
        let stamp = Stamp::of(&fs::metadata(self.final_path(digest))?);
        self.hashes.set(digest, stamp, digest.as_str().to_owned());
        Ok(())
    }

    /// The bytes of `file`, which was opened under the final name, hash to `found`. One that has
    /// taken its place since is another state of the file.
    pub fn condemn(&self, digest: &Digest256, file: &File, found: &str) -> io::Result<()> {
        let stamp = Stamp::of(&file.metadata()?);
        self.hashes.set(digest, stamp, found.to_owned());
        Ok(())
    }

    /// Moves aside what lies under the final name and is no file: no file can take its place.
    pub fn clear_name(&self, digest: &Digest256) -> io::Result<()> {
        let path = self.final_path(digest);
        if !path.is_dir() {
            return Ok(());
        }
        let aside = free_name(&path);
        tracing::warn!(
            "{} is a folder, where an artifact belongs; it is moved to {}",
            path.display(),
            aside.display()
        );
        fs::rename(&path, &aside)
    }

    /// Looks at the file of `digest`; hashes its bytes if they were not hashed before.
    pub fn find(&self, digest: &Digest256) -> io::Result<Found> {
        let path = self.final_path(digest);
        let meta = match fs::metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            other => other?,
        };
        if !meta.is_file() {
            let fault = "what lies there is no file".to_owned();
            return Ok(Found::Damaged { fault });
        }
        let stamp = Stamp::of(&meta);
        let found = self.hashes.get(digest, stamp, || {
            let found = hex::encode(hash_of(&path)?.finalize());
            // The process may have died between the rename and the sync of the shelf.
            self.sync_shelf(digest)?;
            Ok(found)
        })?;
        if found == digest.as_str() {
            Ok(Found::Right { bytes: stamp.bytes })
        } else {
            let fault = format!("its bytes hash to {found}");
            Ok(Found::Damaged { fault })
        }
    }

    /// Removes the file of `digest`. A file that cannot be removed stays, and the log names it.
    pub fn remove(&self, digest: &Digest256) {
        let path = self.final_path(digest);
        match fs::remove_file(&path) {
            Ok(()) => self.hashes.forget(digest),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => tracing::warn!("{} cannot be removed: {e}", path.display()),
        }
    }

    /// Bytes of all files, those of uploads that have not ended included. What goes meanwhile may
    /// be counted or not.
    pub fn bytes(&self) -> u64 {
        let shelves = self.shelves().unwrap_or_default();
        shelves.iter().map(|shelf| bytes_in(shelf)).sum::<u64>() + self.parts.disk_bytes()
    }

    /// The folders that artifacts are spread over.
    ///
    /// # Errors
    /// The folder of all artifacts cannot be read.
    pub fn shelves(&self) -> Result<Vec<PathBuf>, ArtifactError> {
        shelves(&self.artifacts).map_err(at(&self.artifacts))
    }
}

/// A name beside `path` under which nothing lies: what was moved aside before stays as it is.
fn free_name(path: &Path) -> PathBuf {
    let is_free = |name: &PathBuf| {
        fs::symlink_metadata(name).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
    };
    let first = path.with_extension("damaged");
    let numbered = (2..=MOST_ASIDE).map(|n| path.with_extension(format!("damaged-{n}")));
    std::iter::once(first.clone())
        .chain(numbered)
        .find(is_free)
        .unwrap_or(first)
}
