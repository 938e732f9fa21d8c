//! Why the coordinator cannot start, and how refusals travel as gRPC statuses.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use qlora_access::TokenError;
use qlora_engine::{JobId, Refusal};
use qlora_store::{ArtifactError, StoreError};
use tonic::{Code, Status};

/// Why the program ends.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("error[Q0405]: cannot listen on {address}: {source}\n  help: {help}", help = bind_help(.source))]
    Bind {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error("error[Q0407]: {0}\n  help: {help}", help = .0.help())]
    Token(#[from] TokenError),
    #[error("error[Q0408]: no folder for state is known\n  help: give --state-dir DIR")]
    NoStateFolder,
    #[error("error[{code}]: {0}\n  help: {help}", code = store_fault(.0), help = store_help(.0))]
    Store(#[from] StoreError),
    #[error(
        "error[Q0602]: {0}\n  help: make room and let this user write there, or give --state-dir another folder"
    )]
    Artifacts(#[from] ArtifactError),
    #[error("error[Q0603]: {0}")]
    Telemetry(#[from] qlora_telemetry::SetupError),
    #[error("error[Q0604]: {path} cannot be written: {source}")]
    AddressFile {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("error[Q0604]: {0}")]
    Serve(std::io::Error),
}

impl StartError {
    /// As docs/reference/cli.md lists them.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Token(_) | Self::NoStateFolder => 2,
            Self::Store(StoreError::InUse { .. }) => 5,
            Self::Store(_) | Self::Artifacts(_) => 3,
            Self::Bind { .. } => 4,
            Self::Telemetry(_) | Self::AddressFile { .. } | Self::Serve(_) => 1,
        })
    }
}

fn bind_help(fault: &std::io::Error) -> &'static str {
    match fault.kind() {
        std::io::ErrorKind::AddrInUse => {
            "another coordinator may run there; give --listen another port"
        }
        std::io::ErrorKind::AddrNotAvailable => {
            "give --listen an address of this machine, or 0.0.0.0 for all of them"
        }
        _ => "give --listen another address",
    }
}

/// A folder that another coordinator holds is one thing, one that cannot be used another.
fn store_fault(fault: &StoreError) -> &'static str {
    match fault {
        StoreError::InUse { .. } => "Q0409",
        _ => "Q0601",
    }
}

/// The way out, where the message does not say it.
fn store_help(fault: &StoreError) -> &'static str {
    match fault {
        StoreError::InUse { .. } => {
            "one coordinator serves all; each further one needs a folder of its own"
        }
        StoreError::Newer { .. } => "start the newer program, or give --state-dir another folder",
        StoreError::Folder { .. } => {
            "let this user write there, or give --state-dir another folder"
        }
        StoreError::DiskFull { .. } => {
            "free space there, or give --state-dir a folder on a larger disk"
        }
        _ => "restore the folder from a copy, or give --state-dir another one",
    }
}

/// What a call can fail with besides its transport.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the coordinator cannot store: {0}; nothing was changed, try again")]
    NotDurable(String),
    #[error(
        "the coordinator does not know whether it has stored this: {0}; ask before you try again, or try again with the same idempotency key"
    )]
    Unsure(String),
    #[error("the system gives no random bytes: {0}")]
    Random(String),
    #[error("job {job} cannot be read and is set aside, as it is, in the database: {fault}")]
    Unreadable { job: JobId, fault: String },
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
            CallError::Refused(Refusal::UnknownJob(_) | Refusal::UnknownWorker(_)) => {
                Code::NotFound
            }
            CallError::Refused(Refusal::NameTaken { .. } | Refusal::KeyReused(_)) => {
                Code::AlreadyExists
            }
            CallError::Refused(Refusal::StaleSession(_)) => Code::Unauthenticated,
            CallError::Refused(_) => Code::FailedPrecondition,
            CallError::NotDurable(_) | CallError::Unsure(_) | CallError::Stopping => {
                Code::Unavailable
            }
            CallError::Random(_) => Code::Internal,
            CallError::Unreadable { .. } => Code::DataLoss,
            CallError::Store(fault) => store_code(fault),
            CallError::Artifact(fault) => artifact_code(fault),
            CallError::Invalid(_) => Code::InvalidArgument,
        };
        Status::new(code, error.to_string())
    }
}

/// Trouble of the coordinator's own passes: whoever tries again may well succeed.
fn store_code(fault: &StoreError) -> Code {
    match fault {
        StoreError::NoConfig { .. } => Code::NotFound,
        StoreError::Unreadable { .. } => Code::DataLoss,
        StoreError::Newer { .. } | StoreError::Unwritable { .. } => Code::Internal,
        StoreError::Folder { .. }
        | StoreError::InUse { .. }
        | StoreError::Read { .. }
        | StoreError::DiskFull { .. }
        | StoreError::NotWritten { .. }
        | StoreError::Unsure { .. } => Code::Unavailable,
    }
}

fn artifact_code(fault: &ArtifactError) -> Code {
    match fault {
        ArtifactError::Missing(_) => Code::NotFound,
        ArtifactError::Damaged { .. } => Code::DataLoss,
        ArtifactError::DiskFull { .. } => Code::ResourceExhausted,
        ArtifactError::Io { .. } => Code::Unavailable,
        ArtifactError::Offset { .. }
        | ArtifactError::TooShort { .. }
        | ArtifactError::Mismatch { .. } => Code::Aborted,
        ArtifactError::BadDigest { .. } | ArtifactError::TooLong { .. } => Code::InvalidArgument,
    }
}
