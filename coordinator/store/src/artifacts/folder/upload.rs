//! An upload in progress.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use super::files::Folder;
use super::hashes::hash_of;
use super::partial::{Part, remove};
use crate::artifacts::digest::Digest256;
use crate::artifacts::error::{ArtifactError, at};

/// An upload in progress; dropping it keeps what has come, for whoever goes on with it.
pub(in crate::artifacts) struct FileUpload {
    size: u64,
    /// None once a write was given up in its middle.
    file: Option<Own>,
    digest: Digest256,
}

/// All bytes are there and are the right ones; dropping it keeps them as those of an upload.
pub(in crate::artifacts) struct FinishedFile(Own);

/// The file of one upload, and nobody else's.
struct Own {
    folder: Arc<Folder>,
    digest: Digest256,
    path: PathBuf,
    file: File,
    /// Bytes that are in the file and in `hash`.
    bytes: u64,
    hash: Sha256,
    fate: Fate,
}

/// What becomes of the file when the upload is over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It waits for whoever goes on with it.
    Rests,
    /// It may have more bytes than are counted, and is cut before it waits.
    Torn,
    Goes,
    /// It has its final name.
    Published,
}

impl FileUpload {
    pub fn open(
        folder: Arc<Folder>,
        digest: &Digest256,
        size: u64,
        offset: u64,
    ) -> Result<Self, ArtifactError> {
        let file = if offset == 0 {
            Own::new(folder, digest)
        } else {
            Own::resumed(folder, digest, offset)
        };
        Ok(Self {
            size,
            file: Some(file?),
            digest: digest.clone(),
        })
    }

    /// Takes the next bytes; they are in the file when it returns.
    pub async fn write(&mut self, bytes: Vec<u8>) -> Result<(), ArtifactError> {
        let received = self.received();
        let mut own = self.take()?;
        let waits = own.folder.waits;
        if received + bytes.len() as u64 > self.size {
            own.fate = Fate::Goes;
            return Err(ArtifactError::TooLong {
                digest: self.digest.clone(),
                size: self.size,
            });
        }
        let write = move || {
            let result = own.write(&bytes);
            (own, result)
        };
        let (own, result) = waits.run_for(&self.digest, write).await?;
        // One that has failed ends here, and leaves what it has to the next.
        result.map(|()| self.file = Some(own))
    }

    pub fn received(&self) -> u64 {
        self.file.as_ref().map_or(0, |own| own.bytes)
    }

    /// Checks that all bytes are there and right, and makes them durable.
    ///
    /// # Errors
    /// They are not; where they hash to something else, they are thrown away.
    pub async fn finish(mut self) -> Result<FinishedFile, ArtifactError> {
        let (size, received) = (self.size, self.received());
        if received < size {
            return Err(ArtifactError::TooShort {
                digest: self.digest.clone(),
                size,
                received,
            });
        }
        let mut own = self.take()?;
        let waits = own.folder.waits;
        let check = move || own.check().map(|()| FinishedFile(own));
        waits.run_for(&self.digest, check).await?
    }

    fn take(&mut self) -> Result<Own, ArtifactError> {
        let gone = || ArtifactError::Offset {
            digest: self.digest.clone(),
            expected: 0,
            offset: 0,
        };
        self.file.take().ok_or_else(gone)
    }
}

impl FinishedFile {
    /// Gives the artifact its final name.
    pub async fn publish(self) -> Result<(), ArtifactError> {
        let Self(mut own) = self;
        let (waits, digest) = (own.folder.waits, own.digest.clone());
        waits.run_for(&digest, move || own.publish()).await?
    }

    /// Throws the bytes away.
    pub fn discard(mut self) {
        self.0.fate = Fate::Goes;
    }
}

impl Own {
    fn new(folder: Arc<Folder>, digest: &Digest256) -> Result<Self, ArtifactError> {
        let path = folder.parts.new_path(digest);
        let file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .open(&path)
            .map_err(at(&path))?;
        Ok(Self {
            folder,
            digest: digest.clone(),
            path,
            file,
            bytes: 0,
            hash: Sha256::new(),
            fate: Fate::Rests,
        })
    }

    fn resumed(
        folder: Arc<Folder>,
        digest: &Digest256,
        offset: u64,
    ) -> Result<Self, ArtifactError> {
        let wrong = |expected| ArtifactError::Offset {
            digest: digest.clone(),
            expected,
            offset,
        };
        let Part {
            path, bytes, hash, ..
        } = folder.parts.take(digest, offset).map_err(wrong)?;
        let opened = || -> std::io::Result<(File, Sha256)> {
            let file = OpenOptions::new().append(true).open(&path)?;
            if file.metadata()?.len() != bytes {
                return Err(std::io::Error::other(
                    "the part was changed by another program",
                ));
            }
            let hash = hash.map_or_else(|| hash_of(&path), Ok)?;
            Ok((file, hash))
        };
        match opened() {
            Ok((file, hash)) => Ok(Self {
                folder,
                digest: digest.clone(),
                path,
                file,
                bytes,
                hash,
                fate: Fate::Rests,
            }),
            Err(e) => {
                remove(&path);
                Err(at(&path)(e))
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ArtifactError> {
        if let Err(e) = self.file.write_all(bytes) {
            self.fate = Fate::Torn;
            return Err(self.failed(e));
        }
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn check(&mut self) -> Result<(), ArtifactError> {
        let found = hex::encode(self.hash.clone().finalize());
        if found != self.digest.as_str() {
            self.fate = Fate::Goes;
            return Err(ArtifactError::Mismatch {
                digest: self.digest.clone(),
                found,
            });
        }
        if let Err(e) = self.file.sync_all() {
            // What a failed sync has left on the disk is not known, and a second one would not
            // tell.
            self.fate = Fate::Goes;
            return Err(self.failed(e));
        }
        Ok(())
    }

    fn publish(&mut self) -> Result<(), ArtifactError> {
        let path = self.folder.final_path(&self.digest);
        let named = self
            .folder
            .make_shelf(&self.digest)
            .and_then(|()| self.folder.clear_name(&self.digest))
            .and_then(|()| fs::rename(&self.path, &path));
        named.map_err(|e| self.failed(e))?;
        self.fate = Fate::Published;
        // Where this fails, the file is hashed and its shelf synced again before it counts as
        // there.
        self.folder
            .sync_shelf(&self.digest)
            .map_err(|e| self.failed(e))?;
        self.folder.vouch(&self.digest).map_err(at(&path))
    }

    /// On a full disk everything goes that can be had again, for state must still be stored.
    fn failed(&mut self, source: std::io::Error) -> ArtifactError {
        let error = at(&self.path)(source);
        if matches!(error, ArtifactError::DiskFull { .. }) && self.fate != Fate::Published {
            self.fate = Fate::Goes;
            self.folder.parts.clear();
        }
        error
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let torn = self.fate == Fate::Torn && self.file.set_len(self.bytes).is_err();
        match self.fate {
            Fate::Published => {}
            Fate::Rests | Fate::Torn if !torn => {
                let (path, hash) = (self.path.clone(), Some(self.hash.clone()));
                let part = Part {
                    path,
                    bytes: self.bytes,
                    hash,
                    since: SystemTime::now(),
                };
                self.folder.parts.rest(self.digest.clone(), part);
            }
            _ => remove(&self.path),
        }
    }
}
