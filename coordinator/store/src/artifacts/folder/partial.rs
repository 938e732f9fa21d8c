//! Files of interrupted uploads, each waiting for the upload that resumes it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use sha2::Sha256;

use crate::artifacts::digest::Digest256;

/// The file of an upload that broke off.
pub(super) struct Part {
    pub path: PathBuf,
    pub bytes: u64,
    /// Of these bytes; none where they were written before the last start.
    pub hash: Option<Sha256>,
    pub since: SystemTime,
}

/// One part a digest at the most: the longest.
pub(super) struct Parts {
    folder: PathBuf,
    resting: Mutex<HashMap<Digest256, Part>>,
    next: AtomicU64,
}

impl Parts {
    /// Takes up what an earlier process left in `folder`; what is of no use any more goes.
    pub fn open(folder: PathBuf, keep: Duration) -> std::io::Result<Self> {
        fs::create_dir_all(&folder)?;
        // Names of an earlier process may still lie there.
        let begun = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let parts = Self {
            folder,
            resting: Mutex::default(),
            next: AtomicU64::new(begun.as_nanos() as u64),
        };
        for entry in fs::read_dir(&parts.folder)? {
            let path = entry?.path();
            match found(&path) {
                Some((digest, part)) => parts.rest(digest, part),
                None => remove(&path),
            }
        }
        parts.clean(keep);
        Ok(parts)
    }

    fn resting(&self) -> MutexGuard<'_, HashMap<Digest256, Part>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A path that no other upload has.
    pub fn new_path(&self, digest: &Digest256) -> PathBuf {
        self.folder.join(format!(
            "{digest}.{}",
            self.next.fetch_add(1, Ordering::Relaxed)
        ))
    }

    /// Bytes with which the next upload of `digest` may go on.
    pub fn bytes(&self, digest: &Digest256) -> u64 {
        self.resting().get(digest).map_or(0, |part| part.bytes)
    }

    /// Gives the part of `digest` away if it has as many bytes; else says how many it has.
    pub fn take(&self, digest: &Digest256, bytes: u64) -> Result<Part, u64> {
        let mut resting = self.resting();
        match resting.remove(digest) {
            Some(part) if part.bytes == bytes => Ok(part),
            other => {
                let has = other.as_ref().map_or(0, |part| part.bytes);
                resting.extend(other.map(|part| (digest.clone(), part)));
                Err(has)
            }
        }
    }

    /// Keeps `part`, or the one that there is, whichever is longer.
    pub fn rest(&self, digest: Digest256, part: Part) {
        let mut resting = self.resting();
        let longest = resting.get(&digest).map_or(0, |other| other.bytes);
        let goes = if part.bytes > longest {
            resting.insert(digest, part)
        } else {
            Some(part)
        };
        drop(resting);
        if let Some(part) = goes {
            remove(&part.path);
        }
    }

    /// Bytes of all files, those of uploads that go on included.
    pub fn disk_bytes(&self) -> u64 {
        bytes_in(&self.folder)
    }

    /// Removes parts that have waited for longer than `keep`.
    pub fn clean(&self, keep: Duration) {
        let old = |part: &Part| part.since.elapsed().is_ok_and(|age| age > keep);
        self.resting().retain(|_, part| {
            let goes = old(part);
            if goes {
                remove(&part.path);
            }
            !goes
        });
    }

    /// Removes all parts: a full disk must not stay full of them, or no state can be stored.
    pub fn clear(&self) {
        self.resting()
            .drain()
            .for_each(|(_, part)| remove(&part.path));
    }
}

/// Bytes of the files in `folder`; none where it cannot be read.
pub(super) fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let metas = entries.filter_map(|entry| entry.metadata().ok());
    let files = metas.filter(|meta| meta.is_file());
    files.map(|meta| meta.len()).sum()
}

/// What a file of an earlier process holds; nothing that is of use under another name than the
/// store's, or empty.
fn found(path: &Path) -> Option<(Digest256, Part)> {
    let digest = path
        .file_name()?
        .to_str()?
        .split('.')
        .next()?
        .parse()
        .ok()?;
    let meta = fs::metadata(path)
        .ok()
        .filter(|meta| meta.is_file() && meta.len() > 0)?;
    let since = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    Some((
        digest,
        Part {
            path: path.into(),
            bytes: meta.len(),
            hash: None,
            since,
        },
    ))
}

/// What cannot be removed now is found again at the next start.
pub(super) fn remove(path: &Path) {
    if let Err(e) = fs::remove_file(path)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(
            "{} of a broken upload cannot be removed: {e}",
            path.display()
        );
    }
}
