//! An artifact that is read piece by piece, so that no caller holds all of its bytes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use super::blocking::blocking;
use super::digest::Digest256;
use super::error::{ArtifactError, at};

/// Reads an artifact piece by piece.
pub struct ArtifactReader {
    /// Of the whole artifact.
    pub size: u64,
    file: Arc<File>,
    path: PathBuf,
    digest: Digest256,
}

impl ArtifactReader {
    /// Opens the file at `path`, which has `size` bytes that hash to `digest`, at `offset`.
    pub(super) fn open(
        digest: Digest256,
        path: PathBuf,
        size: u64,
        offset: u64,
    ) -> Result<Self, ArtifactError> {
        let mut file = File::open(&path).map_err(at(&path))?;
        file.seek(SeekFrom::Start(offset.min(size)))
            .map_err(at(&path))?;
        Ok(Self {
            size,
            file: Arc::new(file),
            path,
            digest,
        })
    }

    /// Up to `limit` further bytes; none at the end.
    pub async fn next(&mut self, limit: usize) -> Result<Vec<u8>, ArtifactError> {
        let file = self.file.clone();
        let read = move || -> io::Result<Vec<u8>> {
            let mut buffer = vec![0u8; limit];
            let n = (&*file).read(&mut buffer)?;
            buffer.truncate(n);
            Ok(buffer)
        };
        blocking(&self.digest, read).await?.map_err(at(&self.path))
    }
}
