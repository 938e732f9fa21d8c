//! Why the coordinator cannot start, and how refusals travel as gRPC statuses.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use qlora_engine::Refusal;
use qlora_store::{ArtifactError, StoreError};
use tonic::{Code, Status};

/// Why the program ends.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "error[Q0405]: cannot listen on {address}: {source}\n  help: another coordinator may run there; give --listen another port"
    )]
    Bind { address: SocketAddr, source: std::io::Error },
    #[error(
        "error[Q0406]: {address} can be reached from other machines, and no token is set\n  help: write a secret to a file and give --token-file FILE, or listen on 127.0.0.1"
    )]
    OpenWithoutToken { address: SocketAddr },
    #[error(
        "error[Q0407]: the token file {path} cannot be used: {fault}\n  help: its first line must hold at least 16 characters"
    )]
    Token { path: PathBuf, fault: String },
    #[error("error[Q0408]: no folder for state is known\n  help: give --state-dir DIR")]
    NoStateFolder,
    #[error("error[Q0601]: {0}")]
    Store(#[from] StoreError),
    #[error("error[Q0602]: {0}")]
    Artifacts(#[from] ArtifactError),
    #[error("error[Q0603]: {0}")]
    Telemetry(#[from] qlora_telemetry::SetupError),
    #[error("error[Q0604]: {0}")]
    Serve(std::io::Error),
}

impl StartError {
    /// 2 where the command line is at fault, else 1.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::OpenWithoutToken { .. } | Self::Token { .. } | Self::NoStateFolder => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}

/// What a call can fail with besides its transport.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the coordinator cannot store: {0}; nothing was changed, try again")]
    NotDurable(String),
    #[error("the coordinator is stopping; try again")]
    Stopping,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error("{0}")]
    Invalid(String),
}

impl From<CallError> for Status {
    fn from(error: CallError) -> Self {
        let code = match &error {
            CallError::Refused(Refusal::UnknownJob(_)) | CallError::Store(StoreError::NoConfig { .. }) => {
                Code::NotFound
            }
            CallError::Refused(Refusal::NameTaken { .. } | Refusal::KeyReused(_)) => Code::AlreadyExists,
            CallError::Refused(Refusal::StaleSession(_)) => Code::Unauthenticated,
            CallError::Refused(_) => Code::FailedPrecondition,
            CallError::NotDurable(_) | CallError::Stopping => Code::Unavailable,
            CallError::Store(_) => Code::Internal,
            CallError::Artifact(ArtifactError::Missing(_)) => Code::NotFound,
            CallError::Artifact(ArtifactError::DiskFull { .. }) => Code::ResourceExhausted,
            CallError::Artifact(ArtifactError::Io { .. }) => Code::Internal,
            CallError::Artifact(ArtifactError::Offset { .. }) => Code::Aborted,
            CallError::Artifact(_) | CallError::Invalid(_) => Code::InvalidArgument,
        };
        Status::new(code, error.to_string())
    }
}
