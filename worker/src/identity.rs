//! The identity of a worker: its name, and an instance id that lives as long as its state folder.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use fs4::fs_std::FileExt;
use qlora_trainer::partial;

use crate::cli::AgentArgs;
use crate::error::WorkerError;

/// Locks the state folder while it lives, so that a second worker on it is refused.
#[derive(Debug)]
pub struct Identity {
    pub name: String,
    pub instance: String,
    pub folder: PathBuf,
    _lock: File,
}

impl Identity {
    /// Locks the state folder, and reads its instance id or makes one.
    pub fn take(args: &AgentArgs) -> Result<Self, WorkerError> {
        let folder = state_folder(args)?;
        fs::create_dir_all(&folder).map_err(WorkerError::io(&folder))?;
        let lock_path = folder.join("lock");
        let lock = File::create(&lock_path).map_err(WorkerError::io(&lock_path))?;
        if !FileExt::try_lock_exclusive(&lock).map_err(WorkerError::io(&lock_path))? {
            return Err(WorkerError::StateInUse { path: folder });
        }
        let name = args
            .name
            .clone()
            .or_else(|| sysinfo::System::host_name().ok())
            .unwrap_or_else(|| "worker".into());
        Ok(Self {
            name,
            instance: instance(&folder)?,
            folder,
            _lock: lock,
        })
    }
}

/// The worker's state folder: `--state-dir`, or `qlora/worker` in the user's data folder.
///
/// # Errors
/// Neither `--state-dir` nor `XDG_DATA_HOME` nor `HOME` says where.
pub fn state_folder(args: &AgentArgs) -> Result<PathBuf, WorkerError> {
    let usual = || Some(qlora_client::data_folder()?.join("qlora/worker"));
    args.state_dir
        .clone()
        .or_else(usual)
        .ok_or(WorkerError::NoStateFolder)
}

fn instance(folder: &Path) -> Result<String, WorkerError> {
    let path = folder.join("instance");
    match fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        // What a crash may have left.
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        // A new identity would make this another worker.
        Err(e) => return Err(WorkerError::io(&path)(e)),
    }
    let made = uuid::Uuid::new_v4().to_string();
    partial::write(&path, made.as_bytes()).map_err(WorkerError::io(&path))?;
    Ok(made)
}
