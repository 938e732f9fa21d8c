//! Hashes of files, computed once for each state of a file, however many callers ask at the same
//! time.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::artifacts::digest::Digest256;

/// Bytes that are read at one time.
const BUFFER: usize = 256 * 1024;

/// Changes with the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub bytes: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    pub fn of(meta: &Metadata) -> Self {
        Self {
            bytes: meta.len(),
            modified: meta.modified().ok(),
        }
    }
}

/// What the file of one name was, and what its bytes hashed to.
type Known = Option<(Stamp, String)>;

/// Files by their names.
#[derive(Default)]
pub(super) struct Hashes(Mutex<HashMap<Digest256, Arc<Mutex<Known>>>>);

impl Hashes {
    /// What the file `name` hashes to. Where it is not known, `hash` works it out, and whoever asks
    /// meanwhile waits for that; it may take minutes, and names others do not.
    ///
    /// # Errors
    /// Those of `hash`; the next one who asks tries again.
    pub fn get(
        &self,
        name: &Digest256,
        stamp: Stamp,
        hash: impl FnOnce() -> io::Result<String>,
    ) -> io::Result<String> {
        let entry = self.all().entry(name.clone()).or_default().clone();
        let mut known = lock(&entry);
        match &*known {
            Some((at, found)) if *at == stamp => Ok(found.clone()),
            _ => {
                let found = hash()?;
                *known = Some((stamp, found.clone()));
                Ok(found)
            }
        }
    }

    /// The file `name` is known to hash to `found`.
    pub fn set(&self, name: &Digest256, stamp: Stamp, found: String) {
        let entry = self.all().entry(name.clone()).or_default().clone();
        *lock(&entry) = Some((stamp, found));
    }

    pub fn forget(&self, name: &Digest256) {
        self.all().remove(name);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Digest256, Arc<Mutex<Known>>>> {
        lock(&self.0)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the whole file at `path` and hashes its bytes.
pub(super) fn hash_of(path: &Path) -> io::Result<Sha256> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0u8; BUFFER];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash),
            n => hash.update(&buffer[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use super::*;

    const STAMP: Stamp = Stamp {
        bytes: 1,
        modified: None,
    };

    fn name() -> Digest256 {
        "0".repeat(64).parse().expect("a digest")
    }

    #[test]
    fn all_who_ask_at_the_same_time_share_one_reading_of_the_file() {
        const ASKING: usize = 6;
        let (hashes, read, together) = (Hashes::default(), AtomicU32::new(0), Barrier::new(ASKING));
        let ask = || {
            together.wait();
            hashes.get(&name(), STAMP, || {
                read.fetch_add(1, SeqCst);
                Ok("found".into())
            })
        };
        let found = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..ASKING).map(|_| scope.spawn(ask)).collect();
            threads
                .into_iter()
                .map(|t| t.join().expect("an end").expect("a hash"))
                .collect::<Vec<_>>()
        });
        assert_eq!(found, ["found"; ASKING]);
        assert_eq!(read.load(SeqCst), 1);
    }

    #[test]
    fn a_file_that_was_changed_or_could_not_be_read_is_read_again() {
        let hashes = Hashes::default();
        let fails = hashes.get(&name(), STAMP, || Err(io::Error::other("a broken disk")));
        assert!(fails.is_err());
        let found = |stamp, text: &str| {
            hashes
                .get(&name(), stamp, || Ok(text.into()))
                .expect("a hash")
        };
        assert_eq!(found(STAMP, "first"), "first");
        assert_eq!(found(STAMP, "second"), "first");
        assert_eq!(found(Stamp { bytes: 2, ..STAMP }, "second"), "second");
        hashes.set(&name(), STAMP, "told".into());
        assert_eq!(found(STAMP, "third"), "told");
        hashes.forget(&name());
        assert_eq!(found(STAMP, "third"), "third");
    }
}
