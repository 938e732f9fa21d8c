//! An artifact that is read, wherever it lies.

use super::error::ArtifactError;
use super::folder::FileReader;
use super::s3::ObjectReader;

/// Reads an artifact piece by piece.
pub struct ArtifactReader {
    /// Of the whole artifact.
    pub size: u64,
    origin: Origin,
}

enum Origin {
    Folder(FileReader),
    Bucket(ObjectReader),
}

impl ArtifactReader {
    pub(super) fn of_folder(reader: FileReader) -> Self {
        Self {
            size: reader.size,
            origin: Origin::Folder(reader),
        }
    }

    pub(super) fn of_bucket(reader: ObjectReader) -> Self {
        Self {
            size: reader.size,
            origin: Origin::Bucket(reader),
        }
    }

    /// Up to `limit` further bytes; none at the end.
    ///
    /// # Errors
    /// Also [`ArtifactError::Damaged`] in the place of the end, where the bytes that were read are
    /// not those of the name.
    pub async fn next(&mut self, limit: usize) -> Result<Vec<u8>, ArtifactError> {
        match &mut self.origin {
            Origin::Folder(reader) => reader.next(limit).await,
            Origin::Bucket(reader) => reader.next(limit).await,
        }
    }
}
