//! Why an artifact cannot be taken or given.

use std::io;
use std::path::{Path, PathBuf};

use qlora_codes::Code;

use super::digest::Digest256;
use super::s3::BucketFault;

#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error("there is no artifact {0}")]
    Missing(Digest256),
    #[error("artifact {digest} is damaged at {path}: {fault}; upload it again")]
    Damaged {
        digest: Digest256,
        path: PathBuf,
        fault: String,
    },
    #[error(
        "upload of {digest}: expected offset {expected}, got {offset}; query the size and resume"
    )]
    Offset {
        digest: Digest256,
        expected: u64,
        offset: u64,
    },
    #[error("an upload of {digest} brings more than its {size} bytes")]
    TooLong { digest: Digest256, size: u64 },
    #[error("artifact {digest} of {size} bytes is too large: a bucket takes {limit} bytes")]
    TooLarge {
        digest: Digest256,
        size: u64,
        limit: u64,
    },
    #[error("upload of {digest}: got {received} of {size} bytes; query the size and resume")]
    TooShort {
        digest: Digest256,
        size: u64,
        received: u64,
    },
    #[error("the bytes that came hash to {found}, not {digest}; the upload starts anew")]
    Mismatch { digest: Digest256, found: String },
    #[error("the disk of the artifact store is full; free space under {path}")]
    DiskFull { path: PathBuf },
    #[error("the artifact store fails at {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "the artifacts there are of another database: {path} names {found}, and this one is {id}; nothing was removed"
    )]
    Foreign {
        path: String,
        found: String,
        id: String,
    },
    #[error(
        "jobs of the database have artifacts, and there are none beside {path}; nothing was changed"
    )]
    Elsewhere { path: String, id: String },
    /// For somebody who waits to lead; it is over as soon as the leader has opened the place.
    #[error(
        "there are no artifacts beside {path} yet, and the leader has not written it; if it does not, its --artifacts or --state-dir is another one"
    )]
    Unmarked { path: String },
    #[error("artifacts in {place}: {fault}")]
    Bucket { place: String, fault: BucketFault },
}

impl ArtifactError {
    /// `qlora-ctl explain CODE` prints its meaning.
    pub fn code(&self) -> Code {
        match self {
            Self::DiskFull { .. } => Code::DiskFull,
            Self::Missing(_)
            | Self::Damaged { .. }
            | Self::Offset { .. }
            | Self::TooLong { .. }
            | Self::TooLarge { .. }
            | Self::TooShort { .. }
            | Self::Mismatch { .. }
            | Self::Io { .. }
            | Self::Foreign { .. }
            | Self::Elsewhere { .. }
            | Self::Unmarked { .. }
            | Self::Bucket { .. } => Code::ArtifactStore,
        }
    }
}

pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> ArtifactError + use<> {
    let path = path.to_owned();
    move |source| match Code::of_file(&source) {
        Code::DiskFull => ArtifactError::DiskFull { path },
        _ => ArtifactError::Io { path, source },
    }
}
