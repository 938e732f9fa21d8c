//! Faults of the file system in plain words.

use std::io::{Error, ErrorKind};
use std::path::Path;

/// Why `path` cannot be read or written; the system's own words stand only where there are no
/// better ones.
pub fn no_access(path: &Path, fault: &Error) -> String {
    let path = path.display();
    match fault.kind() {
        ErrorKind::NotFound => format!("there is no file or folder {path}"),
        ErrorKind::PermissionDenied => {
            format!("permission denied: this user may not read or write {path}")
        }
        ErrorKind::IsADirectory => format!("{path} is a folder, where a file belongs"),
        ErrorKind::NotADirectory => {
            format!("{path} is a file or leads through one, where a folder belongs")
        }
        ErrorKind::AlreadyExists => format!("{path} is there already"),
        ErrorKind::ReadOnlyFilesystem => format!("{path} lies on a file system that is read-only"),
        ErrorKind::StorageFull => format!("there is no room left for {path}"),
        _ => format!("{path}: {fault}"),
    }
}

/// Whether the path that a person gave is at fault, not the machine.
pub fn is_of_the_path(fault: &Error) -> bool {
    use ErrorKind::{
        AlreadyExists, IsADirectory, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem,
    };
    let kinds = [
        NotFound,
        IsADirectory,
        NotADirectory,
        AlreadyExists,
        PermissionDenied,
        ReadOnlyFilesystem,
    ];
    kinds.contains(&fault.kind())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_fault_of_a_path_is_told_in_the_words_of_the_system() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let folder = tempfile::tempdir().expect("a folder");
        for (path, words) in [
            (folder.path().join("nosuch"), "there is no file or folder"),
            (file.path().join("inner"), "leads through one"),
            (folder.path().to_owned(), "is a folder"),
        ] {
            let fault = std::fs::read(&path).expect_err("no file");
            let said = no_access(&path, &fault);
            assert!(
                said.contains(words) && said.contains(&path.display().to_string()),
                "{said}"
            );
            assert!(
                !said.contains("os error") && is_of_the_path(&fault),
                "{said}"
            );
        }
        for refused in [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem] {
            assert!(is_of_the_path(&refused.into()), "{refused}");
        }
        let full = Error::from(ErrorKind::StorageFull);
        assert!(!is_of_the_path(&full));
    }
}
