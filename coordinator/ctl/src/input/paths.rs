//! Where relative paths in a configuration start: in the file's own folder, in the current folder
//! for flags, and nowhere for a configuration that is stored under a name.

use std::path::{Path, PathBuf};

use qlora_config::Place;

/// Where relative paths of a configuration's own text start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Folder(PathBuf),
    /// It is stored under a name, and lies in no folder.
    Stored,
}

/// Where `path` leads, which was written at `place`: in the configuration it starts from the
/// configuration's folder; what a flag or a variable gives starts, as every path on a command line,
/// from the current one. None where it starts nowhere.
pub fn located(place: Option<&Place>, origin: &Origin, path: &str) -> Option<PathBuf> {
    match (place, origin) {
        (Some(Place::Named(_)), _) => Some(PathBuf::from(path)),
        (_, Origin::Folder(folder)) => Some(folder.join(path)),
        (_, Origin::Stored) => Some(PathBuf::from(path)).filter(|path| path.is_absolute()),
    }
}

/// `path` from the root on. What a link at its end leads to keeps the link's name: endings say what
/// a file is.
pub fn absolute(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let tidy = match (whole.parent(), whole.file_name()) {
        (Some(parent), Some(name)) => parent.canonicalize().map(|parent| parent.join(name)),
        _ => whole.canonicalize(),
    };
    tidy.unwrap_or(whole)
}
