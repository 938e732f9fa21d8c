//! What a training process saves, from its folder on disk to where the coordinator has it.

use std::path::{Path, PathBuf};
use std::{fs, io};

use qlora_proto::ArtifactKind;
use serde::{Deserialize, Serialize};

/// A folder that the child has completed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved {
    pub kind: Kind,
    pub step: u64,
    pub folder: PathBuf,
}

impl Saved {
    /// The name of its folder once the coordinator has it; what lay in it is removed.
    pub fn delivered(&self) -> PathBuf {
        let mut name = self.folder.clone().into_os_string();
        name.push(".delivered");
        name.into()
    }

    /// Removes what the coordinator has. The folder is renamed first, in one step: what is half
    /// removed is never taken for what is to be delivered.
    pub fn clear(&self) -> io::Result<()> {
        let delivered = self.delivered();
        fs::rename(&self.folder, &delivered)?;
        empty(&delivered)
    }
}

/// Removes what lies in `folder`.
fn empty(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            fs::remove_dir_all(path)?
        } else {
            fs::remove_file(path)?
        }
    }
    Ok(())
}

/// What a saved folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Checkpoint,
    Adapter,
}

impl From<Kind> for ArtifactKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Checkpoint => Self::Checkpoint,
            Kind::Adapter => Self::Adapter,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_delivered_leaves_its_name_and_nothing_else() {
        let home = tempfile::tempdir().expect("a folder");
        let saved = Saved {
            kind: Kind::Adapter,
            step: 4,
            folder: home.path().join("adapter"),
        };
        for _ in 0..2 {
            fs::create_dir_all(saved.folder.join("deep")).expect("folders");
            fs::write(saved.folder.join("deep/file"), "x").expect("a file");
            saved.clear().expect("a clear folder");
            assert!(!saved.folder.exists());
            assert_eq!(
                fs::read_dir(saved.delivered()).expect("a folder").count(),
                0
            );
        }
    }
}
