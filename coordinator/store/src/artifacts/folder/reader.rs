//! An artifact that is read piece by piece, so that no caller holds all of its bytes.
//!
//! The bytes are hashed on their way: a file may have been changed under its name so that nothing
//! but its bytes tells.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::files::Folder;
use crate::artifacts::digest::Digest256;
use crate::artifacts::error::{ArtifactError, at};

/// Reads an artifact piece by piece.
pub(in crate::artifacts) struct FileReader {
    /// Of the whole artifact.
    pub size: u64,
    file: Arc<File>,
    path: PathBuf,
    digest: Digest256,
    folder: Arc<Folder>,
    /// Of the bytes up to where it stands, but for the first `skipped`.
    hash: Sha256,
    skipped: u64,
}

impl FileReader {
    /// Opens the file of `digest`, which has `size` bytes, at `offset`.
    pub fn open(
        folder: Arc<Folder>,
        digest: Digest256,
        size: u64,
        offset: u64,
    ) -> Result<Self, ArtifactError> {
        let path = folder.final_path(&digest);
        let file = File::open(&path).map_err(at(&path))?;
        Ok(Self {
            size,
            file: Arc::new(file),
            path,
            digest,
            folder,
            hash: Sha256::new(),
            skipped: offset.min(size),
        })
    }

    /// Up to `limit` further bytes; none at the end.
    ///
    /// # Errors
    /// Also [`ArtifactError::Damaged`] in the place of the end, where the bytes that were read are
    /// not those of the name.
    pub async fn next(&mut self, limit: usize) -> Result<Vec<u8>, ArtifactError> {
        let (file, mut hash) = (self.file.clone(), self.hash.clone());
        let skipped = mem::take(&mut self.skipped);
        let read = move || -> io::Result<(Vec<u8>, Sha256)> {
            let mut file = &*file;
            if skipped > 0 {
                file.seek(SeekFrom::Start(0))?;
                io::copy(&mut file.take(skipped), &mut hash)?;
            }
            let mut buffer = vec![0u8; limit];
            let n = file.read(&mut buffer)?;
            buffer.truncate(n);
            hash.update(&buffer);
            Ok((buffer, hash))
        };
        let read = self.folder.waits.run_for(&self.digest, read).await?;
        let (bytes, hash) = read.map_err(at(&self.path))?;
        self.hash = hash;
        if bytes.is_empty() && limit > 0 {
            self.check()?;
        }
        Ok(bytes)
    }

    /// Of an artifact that was read to its end: whether it was what its name says.
    fn check(&self) -> Result<(), ArtifactError> {
        let found = hex::encode(self.hash.clone().finalize());
        if found == self.digest.as_str() {
            return Ok(());
        }
        self.folder
            .condemn(&self.digest, &self.file, &found)
            .map_err(at(&self.path))?;
        Err(ArtifactError::Damaged {
            digest: self.digest.clone(),
            path: self.path.clone(),
            fault: format!("its bytes hash to {found}"),
        })
    }
}
