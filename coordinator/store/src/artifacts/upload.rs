//! An upload in progress, wherever it goes.

use super::error::ArtifactError;
use super::folder::{FileUpload, FinishedFile};
use super::s3::{FinishedObject, ObjectUpload};

/// An upload in progress; dropping it keeps what has come, for whoever goes on with it. A bucket
/// keeps full parts only.
pub struct Upload(pub(super) UploadTo);

pub(super) enum UploadTo {
    Folder(FileUpload),
    Bucket(ObjectUpload),
}

/// All bytes are there and are the right ones; dropping it keeps them as those of an upload.
pub struct Finished(FinishedIn);

enum FinishedIn {
    Folder(FinishedFile),
    Bucket(FinishedObject),
}

impl Upload {
    /// Takes the next bytes; they are in the file when it returns, and full parts in the bucket.
    pub async fn write(&mut self, bytes: Vec<u8>) -> Result<(), ArtifactError> {
        match &mut self.0 {
            UploadTo::Folder(upload) => upload.write(bytes).await,
            UploadTo::Bucket(upload) => upload.write(bytes).await,
        }
    }

    pub fn received(&self) -> u64 {
        match &self.0 {
            UploadTo::Folder(upload) => upload.received(),
            UploadTo::Bucket(upload) => upload.received(),
        }
    }

    /// Checks that all bytes are there and right. In a folder they are durable then, in a bucket once
    /// they have their name.
    ///
    /// # Errors
    /// They are not; where they hash to something else, they are thrown away.
    pub async fn finish(self) -> Result<Finished, ArtifactError> {
        Ok(Finished(match self.0 {
            UploadTo::Folder(upload) => FinishedIn::Folder(upload.finish().await?),
            UploadTo::Bucket(upload) => FinishedIn::Bucket(upload.finish().await?),
        }))
    }
}

impl Finished {
    /// Gives the artifact its final name.
    pub async fn publish(self) -> Result<(), ArtifactError> {
        match self.0 {
            FinishedIn::Folder(finished) => finished.publish().await,
            FinishedIn::Bucket(finished) => finished.publish().await,
        }
    }

    /// Throws the bytes away.
    pub async fn discard(self) {
        match self.0 {
            FinishedIn::Folder(finished) => finished.discard(),
            FinishedIn::Bucket(finished) => finished.discard().await,
        }
    }
}
