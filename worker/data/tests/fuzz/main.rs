//! Fuzz targets: files of rows, tools, templates and tokenizers that others wrote are read, or
//! refused in words.

mod rows;
mod template;
mod text;
mod tools;

use std::path::{Path, PathBuf};

/// A folder of one target, and the path of a file in it.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes `bytes` under `name`.
    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, bytes).expect("a file");
        path
    }
}
