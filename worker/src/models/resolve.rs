//! Which folder or file a model's name stands for on this machine.

use std::path::{Path, PathBuf};

use qlora_config::is_hub_name;
use qlora_planner::{WeightFormat, catalogue, find};

use super::cache::Cache;
use super::error::ModelError;
use super::progress::Progress;
use super::{entry, hub};

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
        return entry::fetch(&cache, &entry, progress);
    }
    if is_hub_name(name) {
        let _held = if cache.has_repository(name) {
            None
        } else {
            Some(hold()?)
        };
        return hub::folder(&cache, name, false, progress).map_err(|fault| match fault {
            ModelError::Fetch { what, fault, help } => ModelError::Fetch {
                what,
                fault: fault + &beside_a_folder(name),
                help,
            },
            other => other,
        });
    }
    Err(unknown(name))
}

/// Of a name of the hub, that its first part is a folder here: it may be a path that is misspelled.
fn beside_a_folder(name: &str) -> String {
    match name.split_once('/') {
        Some((folder, own)) if is_hub_name(name) && Path::new(folder).is_dir() => {
            format!("; the folder {folder} is here and has no {own}")
        }
        _ => String::new(),
    }
}

/// How the model `name` will hold its weights, which the catalogue says of its own, and of what the
/// hub has: none where only the files can tell.
pub fn format_by_name(name: &str) -> Option<WeightFormat> {
    if Path::new(name).exists() {
        return None;
    }
    match find(name) {
        Some(entry) => Some((&entry.format).into()),
        None => is_hub_name(name).then_some(WeightFormat::Folder),
    }
}

/// The folder or file of `name` where it is on this machine.
pub fn local(name: &str) -> Result<PathBuf, ModelError> {
    let path = Path::new(name);
    if path.exists() {
        return Ok(path.into());
    }
    let cache = Cache::open()?;
    let not_here = || ModelError::NotHere {
        name: name.into(),
        note: beside_a_folder(name),
    };
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
