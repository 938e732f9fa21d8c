//! Why a model cannot be obtained, with the way out.

use std::path::PathBuf;

use qlora_codes::Code;

/// Why a model is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error(
        "`{name}` is no file, no folder and no known model\n  help: known are {known}; any owner/name of the hub works too"
    )]
    Unknown { name: String, known: String },
    #[error("`{name}` is no model of the catalogue\n  help: write one of {known}")]
    Unnamed { name: String, known: String },
    #[error("`{name}` is not on this machine{note}\n  help: qlora-worker model fetch {name}")]
    NotHere { name: String, note: String },
    #[error("{what} cannot be fetched: {fault}\n  help: {help}")]
    Fetch {
        what: String,
        fault: String,
        help: String,
    },
    #[error(
        "{what} cannot be fetched: {missing:.1} GiB are missing, {folder} has {free:.1} free, and {reserve:.1} stay free\n  help: make room, or set QLORA_MODEL_DIR to a folder on a larger disk"
    )]
    NoRoom {
        what: String,
        missing: f64,
        folder: PathBuf,
        free: f64,
        reserve: f64,
    },
    #[error(
        "{path} has SHA-256 {found}, not {wanted}; it was removed\n  help: fetch it again; if this repeats, something changes the data on its way"
    )]
    Checksum {
        path: PathBuf,
        found: String,
        wanted: String,
    },
    #[error("{path}: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "this worker does not take the model `{name}` from a job\n  help: its owner lists what it takes beside the catalogue: qlora-worker --allow-models FOLDER or OWNER/NAME"
    )]
    NotAllowed { name: String },
    #[error("no folder for models is known\n  help: set HOME or QLORA_MODEL_DIR")]
    NoCache,
}

impl ModelError {
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io {
            path: path.into(),
            source,
        }
    }

    /// Whether this machine's disk is to blame, and no server.
    pub(super) fn is_of_this_machine(&self) -> bool {
        matches!(self, Self::NoRoom { .. } | Self::Io { .. })
    }

    /// `qlora-ctl explain CODE` prints its meaning.
    pub fn code(&self) -> Code {
        match self {
            Self::NoRoom { .. } => Code::DiskFull,
            Self::Io { source, .. } => Code::of_file(source),
            Self::Unknown { .. }
            | Self::Unnamed { .. }
            | Self::NotHere { .. }
            | Self::Fetch { .. }
            | Self::Checksum { .. }
            | Self::NotAllowed { .. }
            | Self::NoCache => Code::NoModel,
        }
    }
}
