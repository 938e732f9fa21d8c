//! Why the worker cannot go on, with the way out and the exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use qlora_client::Fault;
use qlora_client::files::{self, no_access};
use qlora_codes::Code;

use crate::models::ModelError;

/// What a command ends with that a signal has ended.
pub const INTERRUPTED: u8 = 130;

#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The reader of stdout is gone, as after `| head -1`: it has what it wanted.
    #[error("nobody reads the output")]
    OutputClosed,
    /// A signal ended the command, which left nothing half.
    #[error("interrupted; what was begun for {path} is removed")]
    Interrupted { path: PathBuf },
    #[error("no coordinator at {address} ({fault})")]
    Unreachable { address: String, fault: String },
    #[error("no connection to {address}: {fault}")]
    Link {
        address: String,
        fault: qlora_client::LinkFault,
    },
    #[error("{0}")]
    Connect(#[from] qlora_client::ConnectError),
    #[error("the coordinator refuses: {message}")]
    Refused { message: String, help: &'static str },
    #[error("the coordinator refuses: {message}")]
    Token { message: String, help: &'static str },
    #[error("no folder for state is known")]
    NoStateFolder,
    #[error("another worker uses the state folder {path}")]
    StateInUse { path: PathBuf },
    #[error("{}", no_access(path, source))]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{0}")]
    Telemetry(#[from] qlora_telemetry::SetupError),
    #[error("{0}")]
    Device(String),
    #[error("{0}")]
    Config(#[from] qlora_config::ConfigErrors),
    #[error("{}", parts(.0).0)]
    Model(#[from] ModelError),
    #[error("{0}")]
    Input(String),
    #[error("{fault}")]
    Usage { fault: String, help: &'static str },
    #[error("{}", told(.0))]
    Training(#[from] qlora_trainer::Error),
}

/// What a fault of a model says, and its way out.
fn parts(fault: &ModelError) -> (String, String) {
    let text = match fault {
        ModelError::Io { path, source } => no_access(path, source),
        other => other.to_string(),
    };
    let (message, help) = text.split_once("\n  help: ").unwrap_or((&text, ""));
    (message.to_owned(), help.to_owned())
}

/// What a fault of the trainer says; one of a file in the words of every program.
fn told(fault: &qlora_trainer::Error) -> String {
    match fault {
        qlora_trainer::Error::Io { path, source } => no_access(path, source),
        other => other.to_string(),
    }
}

impl WorkerError {
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io {
            path: path.into(),
            source,
        }
    }

    /// `qlora-ctl explain CODE` prints its meaning; of a configuration, that of its first fault.
    fn code(&self) -> Code {
        match self {
            Self::Config(errors) => errors.code(),
            Self::Interrupted { .. } => Code::Interrupted,
            Self::Unreachable { .. } => Code::Unreachable,
            Self::Connect(e) => e.code(),
            Self::Link { fault, .. } => fault.code(),
            Self::Refused { .. } => Code::Refused,
            Self::Token { .. } => Code::TokenRefused,
            Self::NoStateFolder => Code::NoStateFolder,
            Self::StateInUse { .. } => Code::StateInUse,
            Self::Io { source, .. } => Code::of_file(source),
            Self::Model(e) => e.code(),
            Self::OutputClosed => Code::File,
            Self::Telemetry(fault) => fault.code(),
            Self::Device(_) => Code::NoDevice,
            Self::Input(_) => Code::InvalidRow,
            Self::Usage { .. } => Code::Usage,
            Self::Training(e) => e.code(),
        }
    }

    /// The way out; empty where the message says it, or there is none.
    pub fn help(&self) -> String {
        match self {
            Self::Unreachable { .. } => {
                "start one with qlora-coordinator, or give --coordinator ADDR".into()
            }
            Self::Connect(fault) => fault.help(),
            Self::Link { fault, .. } => fault.help().into(),
            Self::Refused { help, .. } | Self::Token { help, .. } | Self::Usage { help, .. } => {
                (*help).into()
            }
            Self::NoStateFolder => "give --state-dir DIR".into(),
            Self::StateInUse { .. } => {
                "stop it, or give this one its own --state-dir and --name".into()
            }
            Self::Model(fault) => parts(fault).1,
            Self::Telemetry(_) => "unset the OTEL_* variables, or fix them".into(),
            _ => String::new(),
        }
    }

    /// What is told of it; every fault of a configuration by itself.
    pub fn faults(&self) -> Vec<Fault> {
        match self {
            Self::Config(errors) => Fault::parse(&errors.to_string()),
            _ => vec![Fault::new(self.code(), self.to_string(), self.help())],
        }
    }

    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::OutputClosed => 0,
            Self::Interrupted { .. } => INTERRUPTED,
            Self::Connect(_) | Self::NoStateFolder | Self::Usage { .. } => 2,
            Self::Config(_) | Self::Model(_) | Self::Input(_) => 3,
            Self::Training(e) if e.failure_class() == qlora_trainer::FailureClass::Input => 3,
            Self::Io { source, .. } | Self::Training(qlora_trainer::Error::Io { source, .. })
                if files::is_of_the_path(source) =>
            {
                3
            }
            Self::Unreachable { .. } | Self::Link { .. } => 4,
            Self::Refused { .. } | Self::Token { .. } | Self::StateInUse { .. } => 5,
            _ => 1,
        })
    }
}
