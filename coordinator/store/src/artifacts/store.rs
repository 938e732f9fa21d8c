//! The operations of the store: tell what it has, take an upload, read, and remove what nothing
//! needs. The folder knows how files lie on disk.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::blocking::blocking;
use super::digest::Digest256;
use super::error::{ArtifactError, at};
use super::folder::{Folder, Found, older_than};
use super::reader::ArtifactReader;
use super::upload::Upload;

/// How long an upload that broke off waits for its sender, and an artifact for the job that will
/// need it.
const KEEP: Duration = Duration::from_secs(24 * 3600);

/// What the store has of an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArtifactStat {
    /// It is there, and its bytes are those of its name.
    pub complete: bool,
    /// Something else lies under its name; an upload replaces it.
    pub damaged: bool,
    /// Bytes that are there: of the artifact, or of the upload that can be gone on with.
    pub size: u64,
}

/// A folder of artifacts; cheap to clone.
#[derive(Clone)]
pub struct ArtifactStore {
    folder: Arc<Folder>,
    /// When somebody was last told that an artifact is there, and need not send it.
    told: Arc<Mutex<HashMap<Digest256, Instant>>>,
}

impl ArtifactStore {
    /// Opens the store in `folder`, makes it where it is missing, and removes what was left of old
    /// uploads.
    pub async fn open(folder: &Path) -> Result<Self, ArtifactError> {
        Ok(Self {
            folder: Arc::new(Folder::open(folder, KEEP)?),
            told: Arc::default(),
        })
    }

    /// Removes what was left of uploads that nobody has gone on with.
    pub fn clean(&self) {
        self.folder.parts.clean(KEEP);
    }

    /// Removes all that was left of uploads, old or not: state must be stored, and their senders
    /// can send again.
    pub fn make_room(&self) {
        self.folder.parts.clear();
    }

    /// Bytes that artifacts and uploads take on disk; it waits for the disk.
    pub fn disk_bytes(&self) -> u64 {
        self.folder.bytes()
    }

    /// What there is of an artifact, for somebody who relies on it: one that is complete stays for
    /// a day.
    pub async fn stat(&self, digest: &Digest256) -> Result<ArtifactStat, ArtifactError> {
        // Before it is looked for, so that it does not go between the look and the answer.
        let now = Instant::now();
        let before = self.told().insert(digest.clone(), now);
        let found = self.look(digest).await;
        if !found.as_ref().is_ok_and(|stat| stat.complete) {
            let mut told = self.told();
            if told.get(digest) == Some(&now) {
                told.remove(digest);
                told.extend(before.map(|before| (digest.clone(), before)));
            }
        }
        found
    }

    /// What there is of an artifact; its bytes are hashed if they were not before.
    pub async fn look(&self, digest: &Digest256) -> Result<ArtifactStat, ArtifactError> {
        let received = self.folder.parts.bytes(digest);
        Ok(match self.find(digest).await? {
            Found::Right { bytes } => ArtifactStat {
                complete: true,
                damaged: false,
                size: bytes,
            },
            Found::Nothing => ArtifactStat {
                complete: false,
                damaged: false,
                size: received,
            },
            Found::Damaged { .. } => ArtifactStat {
                complete: false,
                damaged: true,
                size: received,
            },
        })
    }

    /// Removes an artifact that no job needs any more, unless somebody was told within a day that
    /// it is there: a job that needs it may be on its way. [`Self::sweep`] removes it later. A file
    /// that cannot be removed stays, and the log names it. Whether it was to be removed.
    pub fn release(&self, digest: &Digest256) -> bool {
        // Held meanwhile, so that nobody is told of it.
        let told = self.told();
        let goes = told.get(digest).is_none_or(|told| told.elapsed() >= KEEP);
        if goes {
            self.folder.remove(digest);
        }
        goes
    }

    /// Removes artifacts for which `is_needed` says no, and that nobody has sent or asked for
    /// within a day.
    ///
    /// # Errors
    /// A folder cannot be read.
    pub fn sweep(&self, is_needed: &dyn Fn(&str) -> bool) -> Result<u64, ArtifactError> {
        let mut removed = 0;
        for shelf in self.folder.shelves()? {
            // An artifact may be replaced meanwhile: what is old is removed at once, shelf by shelf.
            for digest in older_than(KEEP, &shelf)? {
                if !is_needed(digest.as_str()) && self.release(&digest) {
                    removed += 1;
                }
            }
        }
        self.told().retain(|_, told| told.elapsed() < KEEP);
        Ok(removed)
    }

    /// Begins an upload of `size` bytes, or goes on at `offset` with one that broke off.
    pub async fn upload(
        &self,
        digest: &Digest256,
        size: u64,
        offset: u64,
    ) -> Result<Upload, ArtifactError> {
        let (folder, name) = (self.folder.clone(), digest.clone());
        blocking(digest, move || Upload::open(folder, &name, size, offset)).await?
    }

    /// Reads an artifact from `offset` on.
    ///
    /// # Errors
    /// It is not there, or its bytes are not those of its name.
    pub async fn read(
        &self,
        digest: &Digest256,
        offset: u64,
    ) -> Result<ArtifactReader, ArtifactError> {
        match self.find(digest).await? {
            Found::Nothing => Err(ArtifactError::Missing(digest.clone())),
            Found::Damaged { fault } => Err(ArtifactError::Damaged {
                digest: digest.clone(),
                path: self.folder.final_path(digest),
                fault,
            }),
            Found::Right { bytes } => {
                ArtifactReader::open(self.folder.clone(), digest.clone(), bytes, offset)
            }
        }
    }

    async fn find(&self, digest: &Digest256) -> Result<Found, ArtifactError> {
        let (folder, name) = (self.folder.clone(), digest.clone());
        let path = folder.final_path(digest);
        blocking(digest, move || folder.find(&name))
            .await?
            .map_err(at(&path))
    }

    fn told(&self) -> MutexGuard<'_, HashMap<Digest256, Instant>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
