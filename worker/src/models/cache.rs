//! The user's folder of models. A model under its final name is complete.

use std::path::{Path, PathBuf};

use qlora_planner::{CatalogueEntry, ModelFormat};

use super::ModelError;

#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// `QLORA_MODEL_DIR`, else under the user's cache folder.
    pub fn open() -> Result<Self, ModelError> {
        let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let folder = variable("QLORA_MODEL_DIR")
            .or_else(|| variable("XDG_CACHE_HOME").map(|p| p.join("qlora/models")))
            .or_else(|| variable("HOME").map(|p| p.join(".cache/qlora/models")))
            .ok_or(ModelError::NoCache)?;
        std::fs::create_dir_all(&folder).map_err(ModelError::io(&folder))?;
        Ok(Self { folder })
    }

    /// Where a repository's files go.
    pub fn repository(&self, repository: &str) -> PathBuf {
        self.folder.join(repository.replace('/', "--"))
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn has(&self, entry: &CatalogueEntry) -> bool {
        let folder = self.repository(entry.repository);
        match entry.format {
            ModelFormat::Gguf { file, .. } => folder.join(file).exists(),
            ModelFormat::Folder => folder.join(super::hub::COMPLETE).exists(),
        }
    }
}
