//! The user's folder of models. A model under its final name is complete.

use std::fs::File;
use std::path::{Path, PathBuf};

use fs4::fs_std::FileExt;
use qlora_planner::{CatalogueEntry, ModelFormat};
use qlora_trainer::partial;

use super::error::ModelError;

/// Stands in a folder when all of its files are there.
const COMPLETE: &str = ".complete";

#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// `QLORA_MODEL_DIR`, else under the user's cache folder.
    pub fn open() -> Result<Self, ModelError> {
        let variable = |name: &str| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        let folder = variable("QLORA_MODEL_DIR")
            .or_else(|| variable("XDG_CACHE_HOME").map(|p| p.join("qlora/models")))
            .or_else(|| variable("HOME").map(|p| p.join(".cache/qlora/models")))
            .ok_or(ModelError::NoCache)?;
        std::fs::create_dir_all(&folder).map_err(ModelError::io(&folder))?;
        Ok(Self { folder })
    }

    #[cfg(test)]
    pub(super) fn at(folder: &Path) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// Where a repository's files go.
    pub fn repository(&self, repository: &str) -> PathBuf {
        self.folder.join(repository.replace('/', "--"))
    }

    /// Keeps others from fetching `name` as long as the file that is given lives; `told` hears
    /// where that takes a while.
    pub fn hold(&self, name: &str, told: impl FnOnce()) -> Result<File, ModelError> {
        let path = self
            .folder
            .join(format!(".{}.lock", name.replace('/', "--")));
        let file = File::create(&path).map_err(ModelError::io(&path))?;
        if !FileExt::try_lock_exclusive(&file).map_err(ModelError::io(&path))? {
            told();
            FileExt::lock_exclusive(&file).map_err(ModelError::io(&path))?;
        }
        Ok(file)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file or folder of a catalogue model.
    pub fn path(&self, entry: &CatalogueEntry) -> PathBuf {
        let repository = self.repository(entry.repository);
        match entry.format {
            ModelFormat::Gguf { file, .. } => repository.join(file),
            ModelFormat::Folder => repository,
        }
    }

    pub fn has(&self, entry: &CatalogueEntry) -> bool {
        match entry.format {
            ModelFormat::Gguf { .. } => self.path(entry).exists(),
            ModelFormat::Folder => self.has_repository(entry.repository),
        }
    }

    pub fn has_repository(&self, repository: &str) -> bool {
        self.repository(repository).join(COMPLETE).exists()
    }

    /// Says that all of a repository's files are there.
    pub(super) fn complete(&self, repository: &str) -> Result<(), ModelError> {
        let folder = self.repository(repository);
        partial::write(&folder.join(COMPLETE), b"").map_err(ModelError::io(folder))
    }
}
