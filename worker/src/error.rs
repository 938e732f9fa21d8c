//! Why the worker cannot go on, with the way out and the exit code.

use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The reader of stdout is gone, as after `| head -1`: it has what it wanted.
    #[error("nobody reads the output")]
    OutputClosed,
    #[error(
        "error[Q0401]: no coordinator at {address} ({fault})\n  help: start one with qlora-coordinator, or give --coordinator ADDR"
    )]
    Unreachable { address: String, fault: String },
    #[error("error[Q0402]: {0}\n  help: {help}", help = .0.help())]
    Connect(#[from] qlora_client::ConnectError),
    #[error("error[Q0403]: the coordinator refuses: {message}\n  help: {help}")]
    Refused { message: String, help: &'static str },
    #[error("error[Q0404]: the coordinator refuses: {message}\n  help: {help}")]
    Token { message: String, help: &'static str },
    #[error("error[Q0408]: no folder for state is known\n  help: give --state-dir DIR")]
    NoStateFolder,
    #[error(
        "error[Q0409]: another worker uses the state folder {path}\n  help: stop it, or give this one its own --state-dir and --name"
    )]
    StateInUse { path: PathBuf },
    #[error("error[Q0605]: {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("error[Q0603]: {0}")]
    Telemetry(#[from] qlora_telemetry::SetupError),
    #[error("error[Q0303]: {0}")]
    Device(String),
    #[error("{0}")]
    Config(#[from] qlora_config::ConfigErrors),
    #[error("error[Q0302]: {0}")]
    Model(#[from] crate::models::ModelError),
    #[error("error[Q0203]: {0}")]
    Input(String),
    #[error("error[{code}]: {0}", code = .0.code())]
    Training(#[from] qlora_trainer::Error),
}

impl WorkerError {
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.into(), source }
    }

    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::OutputClosed => 0,
            Self::Connect(_) | Self::NoStateFolder => 2,
            Self::Config(_) | Self::Model(_) | Self::Input(_) => 3,
            Self::Training(e) if e.blame() == qlora_trainer::Blame::Input => 3,
            Self::Unreachable { .. } => 4,
            Self::Refused { .. } | Self::Token { .. } | Self::StateInUse { .. } => 5,
            _ => 1,
        })
    }
}
