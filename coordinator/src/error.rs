//! Why the coordinator cannot start, and how refusals travel as gRPC statuses.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use qlora_access::TokenError;
use qlora_codes::Code;
use qlora_engine::{JobId, Refusal};
use qlora_store::{ArtifactError, BucketFault, InvalidDigest, StoreError};
use tonic::{Code as GrpcCode, Status};

use crate::tls::TlsError;
use crate::tokens::Denied;

/// Why the program ends.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}: {source}")]
    Bind {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error("{0}")]
    Token(#[from] TokenError),
    #[error("{0}")]
    Tls(#[from] TlsError),
    #[error("{address} is reached by other machines, and the coordinator has no certificate")]
    Unencrypted {
        address: SocketAddr,
        /// The state folder.
        folder: PathBuf,
    },
    #[error("no folder for state is known")]
    NoStateFolder,
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Artifacts(#[from] ArtifactError),
    #[error("{0}")]
    Telemetry(#[from] qlora_telemetry::SetupError),
    #[error("{path} cannot be written: {source}")]
    AddressFile {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the backup {path} cannot be written: {source}")]
    Backup {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{0}")]
    Serve(std::io::Error),
}

impl StartError {
    /// `qlora-ctl explain CODE` prints its meaning.
    pub fn code(&self) -> Code {
        match self {
            Self::Bind { .. } => Code::Listen,
            Self::Token(_) => Code::TokenFile,
            Self::Tls(_) => Code::Certificate,
            Self::Unencrypted { .. } => Code::Unencrypted,
            Self::NoStateFolder => Code::NoStateFolder,
            Self::Store(fault) => fault.code(),
            Self::Artifacts(fault) => fault.code(),
            Self::Telemetry(fault) => fault.code(),
            Self::Backup { source, .. } => Code::of_file(source),
            Self::AddressFile { .. } | Self::Serve(_) => Code::Serve,
        }
    }

    /// Whether it is trouble of a bucket that may be over later, and that any other coordinator would
    /// have too. What ails this machine alone, as its disk or its credentials, keeps nobody else
    /// from leading.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Artifacts(ArtifactError::Bucket {
                fault: BucketFault::Unreachable(_)
                    | BucketFault::Throttled(_)
                    | BucketFault::Other(_),
                ..
            })
        )
    }

    /// The way out, where the message does not say it.
    fn help(&self) -> Option<String> {
        Some(match self {
            Self::Bind { source, .. } => bind_help(source).into(),
            Self::Token(fault) => fault.help(),
            Self::Tls(fault) => fault.help(),
            Self::Unencrypted { folder, .. } => format!(
                "make one with qlora-coordinator init --state-dir {}; where nobody else is on the network, --insecure-no-tls serves without",
                folder.display()
            ),
            Self::NoStateFolder => "give --state-dir DIR".into(),
            // Their messages say it.
            Self::Store(
                StoreError::NoDatabase { .. }
                | StoreError::DatabaseOption { .. }
                | StoreError::Unverified { .. }
                | StoreError::Deposed { .. }
                | StoreError::ServerFull { .. }
                | StoreError::ServerDamaged { .. }
                | StoreError::NoState { .. }
                | StoreError::Moving { .. }
                | StoreError::Moved { .. }
                | StoreError::Busy { .. }
                | StoreError::Taken { .. }
                | StoreError::Led { .. },
            ) => return None,
            Self::Store(fault) => store_help(fault).into(),
            Self::Artifacts(fault) => artifact_help(fault),
            Self::Backup { .. } => {
                "name a folder that this user can write, on a disk with room".into()
            }
            Self::Telemetry(_) | Self::AddressFile { .. } | Self::Serve(_) => return None,
        })
    }

    /// The form for people, as every program prints it.
    pub fn text(&self) -> String {
        let head = format!("error[{}]: {self}", self.code());
        match self.help() {
            Some(help) => format!("{head}\n  help: {help}"),
            None => head,
        }
    }

    /// As docs/reference/cli.md lists them.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Token(_)
            | Self::Tls(_)
            | Self::Unencrypted { .. }
            | Self::NoStateFolder
            | Self::Store(
                StoreError::NoDatabase { .. }
                | StoreError::DatabaseOption { .. }
                | StoreError::Unverified { .. },
            ) => 2,
            Self::Store(
                StoreError::InUse { .. } | StoreError::Taken { .. } | StoreError::Led { .. },
            ) => 5,
            Self::Store(StoreError::Deposed { .. }) => 6,
            Self::Store(_) | Self::Artifacts(_) | Self::Backup { .. } => 3,
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
        StoreError::Read { path, .. } | StoreError::NotWritten { path, .. }
            if path.starts_with("postgres:") =>
        {
            "see that the server runs, lets this user in, and that the database is the user's own"
        }
        _ => "restore the folder from a copy, or give --state-dir another one",
    }
}

/// The way out, where the message does not say it.
fn artifact_help(fault: &ArtifactError) -> String {
    match fault {
        ArtifactError::Bucket { fault, .. } => fault.help().into(),
        ArtifactError::Foreign { path, .. } => format!(
            "start it with the database of these artifacts, or give --artifacts a place of its own; only where that database is gone for good, remove {path}"
        ),
        ArtifactError::Elsewhere { path, id } => format!(
            "give --artifacts or --state-dir where they lie, the same as the other coordinators of the database; where they are lost, write `{id} lost` into {path} to go on without them"
        ),
        _ => {
            "make room and let this user write there, or give --state-dir or --artifacts another folder".into()
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
    #[error(
        "the coordinator does not know whether it has stored this: {0}; ask before you try again, or try again with the same idempotency key"
    )]
    Unsure(String),
    /// Of the database; trying again does not mend it.
    #[error("{0}")]
    Damaged(String),
    #[error("the system gives no random bytes: {0}")]
    Random(String),
    #[error("job {job} cannot be read and is set aside, as it is, in the database: {fault}")]
    Unreadable { job: JobId, fault: String },
    #[error("the coordinator is stopping; try again")]
    Stopping,
    /// The token ended while the call was under way.
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
    #[error("{0}")]
    Invalid(String),
}

impl CallError {
    /// Of a change that the store did not take, and whether anything of it may be there.
    pub fn of_write(fault: &StoreError) -> Self {
        match fault {
            StoreError::Unsure { .. } => Self::Unsure(fault.to_string()),
            StoreError::Damaged { .. } | StoreError::ServerDamaged { .. } => {
                Self::Damaged(fault.to_string())
            }
            _ => Self::NotDurable(fault.to_string()),
        }
    }
}

impl From<CallError> for Status {
    fn from(error: CallError) -> Self {
        let code = match &error {
            CallError::Refused(
                Refusal::UnknownJob(_) | Refusal::UnknownWorker(_) | Refusal::UnknownDependency(_),
            ) => GrpcCode::NotFound,
            CallError::Refused(Refusal::QueueFull { .. }) => GrpcCode::ResourceExhausted,
            CallError::Refused(
                Refusal::NameTaken { .. } | Refusal::IdentityTaken { .. } | Refusal::KeyReused(_),
            ) => GrpcCode::AlreadyExists,
            CallError::Refused(Refusal::StaleSession(_)) | CallError::Denied(_) => {
                GrpcCode::Unauthenticated
            }
            CallError::Refused(_) => GrpcCode::FailedPrecondition,
            CallError::NotDurable(_) | CallError::Unsure(_) | CallError::Stopping => {
                GrpcCode::Unavailable
            }
            CallError::Random(_) => GrpcCode::Internal,
            CallError::Unreadable { .. } | CallError::Damaged(_) => GrpcCode::DataLoss,
            CallError::Store(fault) => store_code(fault),
            CallError::Artifact(fault) => artifact_code(fault),
            CallError::Digest(_) | CallError::Invalid(_) => GrpcCode::InvalidArgument,
        };
        Status::new(code, error.to_string())
    }
}

/// Trouble of the coordinator's own passes: whoever tries again may well succeed.
fn store_code(fault: &StoreError) -> GrpcCode {
    match fault {
        StoreError::NoConfig { .. } => GrpcCode::NotFound,
        StoreError::Unreadable { .. }
        | StoreError::Damaged { .. }
        | StoreError::ServerDamaged { .. } => GrpcCode::DataLoss,
        StoreError::Newer { .. }
        | StoreError::Unwritable { .. }
        | StoreError::NoDatabase { .. }
        | StoreError::DatabaseOption { .. }
        | StoreError::Unverified { .. }
        // Of commands, which nobody calls.
        | StoreError::NoState { .. }
        | StoreError::Moving { .. }
        | StoreError::Moved { .. }
        | StoreError::Busy { .. }
        | StoreError::Taken { .. }
        | StoreError::Led { .. } => GrpcCode::Internal,
        StoreError::Folder { .. }
        | StoreError::ServerFull { .. }
        | StoreError::Deposed { .. }
        | StoreError::Unheld { .. }
        | StoreError::InUse { .. }
        | StoreError::Read { .. }
        | StoreError::DiskFull { .. }
        | StoreError::NotWritten { .. }
        | StoreError::Unsure { .. } => GrpcCode::Unavailable,
    }
}

fn artifact_code(fault: &ArtifactError) -> GrpcCode {
    match fault {
        ArtifactError::Missing(_) => GrpcCode::NotFound,
        ArtifactError::Damaged { .. } => GrpcCode::DataLoss,
        ArtifactError::DiskFull { .. } => GrpcCode::ResourceExhausted,
        // Whatever ails a bucket may pass, and a run must not end for it.
        ArtifactError::Io { .. } | ArtifactError::Bucket { .. } => GrpcCode::Unavailable,
        // Of a start, which nobody calls.
        ArtifactError::Foreign { .. }
        | ArtifactError::Elsewhere { .. }
        | ArtifactError::Unmarked { .. } => GrpcCode::Internal,
        ArtifactError::Offset { .. }
        | ArtifactError::TooShort { .. }
        | ArtifactError::Mismatch { .. } => GrpcCode::Aborted,
        ArtifactError::TooLong { .. } | ArtifactError::TooLarge { .. } => GrpcCode::InvalidArgument,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_refused_a_change_learns_whether_anything_of_it_is_there() {
        let path = || PathBuf::from("state");
        let full = CallError::of_write(&StoreError::DiskFull { path: path() });
        let text = full.to_string();
        assert!(text.contains("nothing was changed, try again"), "{text}");
        assert_eq!(Status::from(full).code(), GrpcCode::Unavailable);
        let unsure = CallError::of_write(&StoreError::Unsure {
            path: path(),
            fault: "lost".into(),
        });
        assert!(!unsure.to_string().contains("nothing was changed"));
    }
}
