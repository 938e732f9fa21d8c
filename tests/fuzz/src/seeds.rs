//! Seeds out of files of the repository.

use std::path::{Path, PathBuf};

/// The folder of the repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The bytes of the files below `folder` whose names end in `end`, in the order of their names.
///
/// # Panics
/// There is none, or one cannot be read: a target without seeds would show little.
pub(crate) fn files(folder: &Path, end: &str) -> Vec<Vec<u8>> {
    let mut paths = Vec::new();
    collect(folder, end, &mut paths);
    paths.sort();
    assert!(!paths.is_empty(), "{} holds no *{end}", folder.display());
    paths.iter().map(|path| read(path)).collect()
}

fn collect(folder: &Path, end: &str, paths: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, end, paths);
        } else if path.to_string_lossy().ends_with(end) {
            paths.push(path);
        }
    }
}

/// The bytes of the file at `path`.
///
/// # Panics
/// It cannot be read.
pub(crate) fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
