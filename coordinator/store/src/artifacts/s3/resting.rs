//! Records of multipart uploads: those that wait to be gone on with, and those that are to be ended
//! in the bucket.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::record::{Read, Record};
use crate::artifacts::digest::Digest256;

/// One record a digest waits at the most: the longest.
pub(super) struct Resting {
    folder: PathBuf,
    next: AtomicU64,
    waiting: Mutex<HashMap<Digest256, Record>>,
    /// Their uploads take room in the bucket until it has heard of their end.
    doomed: Mutex<VecDeque<Record>>,
}

/// One that is being ended. Where that comes to nothing, it is among those that are to be ended again
/// once this is dropped.
pub(super) struct Doomed<'a> {
    resting: &'a Resting,
    record: Option<Record>,
}

impl Doomed<'_> {
    /// None once it has ended.
    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// The bucket has heard of its end.
    pub fn has_ended(&mut self) {
        if let Some(record) = self.record.take() {
            record.remove();
        }
    }
}

impl Drop for Doomed<'_> {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            self.resting.doom(record);
        }
    }
}

impl Resting {
    /// Takes up what an earlier process recorded in `folder` of uploads to `place`.
    pub fn open(folder: PathBuf, place: &str) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        // Names of an earlier process may still lie there.
        let begun = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let resting = Self {
            folder,
            next: AtomicU64::new(begun.as_nanos() as u64),
            waiting: Mutex::default(),
            doomed: Mutex::default(),
        };
        for entry in fs::read_dir(&resting.folder)? {
            resting.take_up(&entry?.path(), place)?;
        }
        Ok(resting)
    }

    fn take_up(&self, path: &Path, place: &str) -> io::Result<()> {
        let Some(digest) = digest_of(path) else {
            tracing::warn!("{} is no record of an upload, and stays", path.display());
            return Ok(());
        };
        match Record::read(path, digest, place)? {
            Read::Record(record) => self.rest(*record),
            Read::Nothing => fs::remove_file(path)?,
            Read::Elsewhere(other) => tracing::warn!(
                "{} is of an upload to {other}, and stays until artifacts lie there again",
                path.display()
            ),
        }
        Ok(())
    }

    /// A path that no other record has.
    pub fn new_path(&self, digest: &Digest256) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.folder.join(format!("{digest}.{number}"))
    }

    /// Bytes with which the next upload of `digest` may go on.
    pub fn bytes(&self, digest: &Digest256) -> u64 {
        lock(&self.waiting).get(digest).map_or(0, Record::bytes)
    }

    /// Gives the record of `digest` away if the bucket has as many bytes; else says how many.
    pub fn take(&self, digest: &Digest256, bytes: u64) -> Result<Record, u64> {
        let mut waiting = lock(&self.waiting);
        match waiting.remove(digest) {
            Some(record) if record.bytes() == bytes => Ok(record),
            other => {
                let has = other.as_ref().map_or(0, Record::bytes);
                waiting.extend(other.map(|record| (digest.clone(), record)));
                Err(has)
            }
        }
    }

    /// Keeps `record`, or the one that there is, whichever is longer; the other is to be ended.
    pub fn rest(&self, record: Record) {
        let mut waiting = lock(&self.waiting);
        let longest = waiting.get(&record.digest).map_or(0, Record::bytes);
        let goes = if record.bytes() > longest {
            waiting.insert(record.digest.clone(), record)
        } else {
            Some(record)
        };
        drop(waiting);
        lock(&self.doomed).extend(goes);
    }

    /// The upload of `record` is to be ended.
    pub fn doom(&self, record: Record) {
        lock(&self.doomed).push_back(record);
    }

    /// Uploads that have waited for longer than `keep` are to be ended.
    pub fn expire(&self, keep: Duration) {
        let mut waiting = lock(&self.waiting);
        let old = |record: &Record| record.since.elapsed().is_ok_and(|age| age > keep);
        let goes = waiting.extract_if(|_, record| old(record));
        let goes: Vec<Record> = goes.map(|(_, record)| record).collect();
        drop(waiting);
        lock(&self.doomed).extend(goes);
    }

    /// One that is to be ended, given away.
    pub fn next_doomed(&self) -> Option<Doomed<'_>> {
        let record = lock(&self.doomed).pop_front()?;
        Some(Doomed {
            resting: self,
            record: Some(record),
        })
    }

    /// How many are to be ended.
    pub fn doomed(&self) -> usize {
        lock(&self.doomed).len()
    }

    /// Bytes in the bucket of all that wait or are to be ended.
    pub fn all_bytes(&self) -> u64 {
        let waiting: u64 = lock(&self.waiting).values().map(Record::bytes).sum();
        let doomed: u64 = lock(&self.doomed).iter().map(Record::bytes).sum();
        waiting + doomed
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn digest_of(path: &Path) -> Option<Digest256> {
    let name = path.file_name()?.to_str()?;
    name.split('.').next()?.parse().ok()
}
