//! Why a transfer, or the packing and unpacking around it, failed for good.

use std::path::{Path, PathBuf};

use qlora_codes::Code;

use crate::retry::root_cause;

/// Why a transfer failed for good.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error("the coordinator refuses the transfer: {0}")]
    Refused(String),
    /// Trouble that may pass, and did not while a person waited.
    #[error("the transfer does not go on: {}", root_cause(.0))]
    Stuck(Box<tonic::Status>),
    /// Its disk, of which it says which.
    #[error("{0}; nothing was changed, try again once there is room")]
    Full(String),
    #[error("{path}: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path} came with wrong bytes twice; the network or the disk damages data")]
    Damaged { path: PathBuf },
    #[error("the archive {path} is refused: {fault}")]
    Archive { path: PathBuf, fault: String },
    #[error("{path} changed while it was uploaded")]
    Changed { path: PathBuf },
}

impl TransferError {
    /// `qlora-ctl explain CODE` prints its meaning.
    pub fn code(&self) -> Code {
        match self {
            Self::Refused(_) => Code::Refused,
            Self::Stuck(_) | Self::Full(_) => Code::CoordinatorTrouble,
            Self::Io { source, .. } => Code::of_file(source),
            Self::Damaged { .. } | Self::Archive { .. } | Self::Changed { .. } => Code::File,
        }
    }
}

pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> TransferError {
    move |source| TransferError::Io {
        path: path.into(),
        source,
    }
}
