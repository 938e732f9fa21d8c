//! Who this worker is: a name, and an instance that stays the same as long as its state folder
//! does.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use fs4::fs_std::FileExt;
use qlora_trainer::partial;

use crate::cli::AgentArgs;
use crate::error::WorkerError;

/// Holds the state folder; a second worker on it is refused as long as this lives.
#[derive(Debug)]
pub struct Identity {
    pub name: String,
    pub instance: String,
    pub folder: PathBuf,
    _lock: File,
}

impl Identity {
    /// Locks the state folder and reads or makes the instance in it.
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

/// Where the worker keeps its state.
///
/// # Errors
/// Nothing says where.
pub fn state_folder(args: &AgentArgs) -> Result<PathBuf, WorkerError> {
    let usual = || Some(qlora_client::data_folder()?.join("qlora/worker"));
    args.state_dir
        .clone()
        .or_else(usual)
        .ok_or(WorkerError::NoStateFolder)
}

fn instance(folder: &Path) -> Result<String, WorkerError> {
    let path = folder.join("instance");
    if let Ok(text) = fs::read_to_string(&path)
        && !text.trim().is_empty()
    {
        return Ok(text.trim().to_owned());
    }
    let made = uuid::Uuid::new_v4().to_string();
    partial::write(&path, made.as_bytes()).map_err(WorkerError::io(&path))?;
    Ok(made)
}
